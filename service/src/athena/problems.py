"""Error answers of the FastAPI applications: RFC 9457 problem JSON, with every field at fault named."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from athena.errors import AthenaError
from athena.observability import identity

MEDIA_TYPE = "application/problem+json"
log = structlog.get_logger()


class FieldProblem(BaseModel):
    """One input at fault: where it is, and what is wrong with it."""

    field: str
    detail: str


class Problem(BaseModel):
    """The body of every error answer (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = None


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of an operation that can answer with these error statuses."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
        }
        for status in statuses
    }


def respond(members: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the answer for the members of a problem object; its status is the member `status`."""
    return JSONResponse(members, status_code=members["status"], headers=headers, media_type=MEDIA_TYPE)


async def _athena_error(_: Request, error: AthenaError) -> JSONResponse:
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return respond(error.problem(), headers)


def _fault(fault: dict[str, Any]) -> dict[str, str]:
    place = fault["loc"]
    if fault["type"] == "json_invalid":  # the place is how many characters were understood
        return {"field": str(place[0]), "detail": f"not JSON from character {place[1]} on: {fault['ctx']['error']}"}
    return {"field": ".".join(str(part) for part in place[1:]) or str(place[0]), "detail": fault["msg"]}


async def _validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
    faults = [_fault(fault) for fault in error.errors()]
    return respond(
        {
            "type": "urn:athena:problem:invalid_input",
            "title": "Invalid input",
            "status": 422,
            "detail": "; ".join(f"{fault['field']}: {fault['detail']}" for fault in faults),
            "errors": faults,
        }
    )


def _allowed_methods(request: Request) -> str:
    """Return every method of a path for the header Allow; the framework names those of its first operation only."""
    plain = {key: request.scope[key] for key in ("type", "path", "root_path", "headers") if key in request.scope}
    allowed = [
        method
        for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
        if any(route.matches({**plain, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
    return ", ".join(allowed)


async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    phrase = HTTPStatus(error.status_code).phrase
    members = {"type": "about:blank", "title": phrase, "status": error.status_code, "detail": str(error.detail)}
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed_methods(request)
    return respond(members, headers)


async def _unexpected_error(request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected_error", method=request.method, path=request.url.path, exc_info=error)
    detail = "The service failed on this request; its log has the cause."
    members = {"type": "about:blank", "title": "Internal Server Error", "status": 500, "detail": detail}
    # The server closes the connection after such an error; a caller who is not told sends the next request into it.
    # It is made outside of what puts the id into every other answer.
    return respond(members, {"Connection": "close", identity.HEADER: identity.current()})


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem object and never with a stack."""
    handlers: dict[type[Exception], Any] = {
        AthenaError: _athena_error,
        RequestValidationError: _validation_error,
        HTTPException: _http_error,
        Exception: _unexpected_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, cast("Callable[[Request, Exception], Awaitable[Response]]", handler))
