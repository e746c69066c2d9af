"""Answers of the proxy: pages and errors in a dialect, and the names by which a request and its caller go."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

import msgspec

from athena.errors import AthenaError, NotFoundError
from athena.proxy.server.exchange import Exchange
from athena.router.dialects import codec
from athena.router.types import Dialect

JSON: Final = b"application/json"
TEXT: Final = b"text/plain; charset=utf-8"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. `fields` are its header lines, each with its CRLF, but for those that the server adds."""

    body: bytes
    status: int = 200
    fields: bytes = b"content-type: application/json\r\n"


class MethodNotAllowedError(AthenaError):
    """The path exists, but not for this method."""

    status = 405
    title = "Method not allowed"
    code = "method_not_allowed"


class InternalError(AthenaError):
    """The proxy itself failed on a request."""


def fields(content_type: bytes, *lines: bytes) -> bytes:
    """Return header lines, the content type first; each of `lines` is `name: value`."""
    return b"content-type: %b\r\n%b" % (content_type, b"".join([line + b"\r\n" for line in lines]))


def json_answer(value: object, *lines: bytes, status: int = 200) -> Answer:
    """Return the answer whose body is `value` as JSON, with further header lines."""
    return Answer(status=status, body=msgspec.json.encode(value), fields=fields(JSON, *lines))


def dialect_of(path: str) -> Dialect:
    """Return the dialect in which errors on this path are told: Ollama's below /api/, OpenAI's elsewhere."""
    return Dialect.OLLAMA if path.startswith("/api/") else Dialect.OPENAI


def error_answer(dialect: Dialect, error: AthenaError, *lines: bytes) -> Answer:
    """Return the error in the dialect, with Retry-After (whole seconds, at least 1) where it says when to come back."""
    if error.status == HTTPStatus.UNAUTHORIZED:
        lines = (*lines, b"www-authenticate: Bearer")
    if error.retry_after is not None:
        lines = (*lines, b"retry-after: %d" % max(1, round(error.retry_after)))
    return Answer(status=error.status, body=codec(dialect).encode_error(error), fields=fields(JSON, *lines))


def not_found(path: str) -> Answer:
    """Return the answer for a path that is not served."""
    return error_answer(
        dialect_of(path), NotFoundError(f"There is nothing at {path}; GET /openapi.json lists the paths.")
    )


def method_not_allowed(path: str, method: str, allowed: Iterable[str]) -> Answer:
    """Return the answer for a method that the path does not serve; `Allow` names those that it does."""
    allow = ", ".join(sorted(allowed))
    error = MethodNotAllowedError(f"{path} takes {allow}, not {method}.")
    return error_answer(dialect_of(path), error, b"allow: " + allow.encode())


def show(exchange: Exchange, answer: Answer) -> None:
    """Send a whole answer, with the request's id."""
    identity = b"%bx-request-id: %b\r\n" % (answer.fields, exchange.identity)
    exchange.respond(answer.status, identity, answer.body)
