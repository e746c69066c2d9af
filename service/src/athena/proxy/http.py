"""HTTP as the proxy speaks it: the body of a request read within limits, answers sent whole, errors in a dialect."""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

import msgspec

from athena.errors import AthenaError, NotFoundError
from athena.router.dialects import codec
from athena.router.types import Dialect

Scope = Mapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"
_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
_SECONDS_TO_TAKE_REFUSED_BODY = 2.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request may cost: the size of its body, and the time that its sender may take."""

    body_bytes: int = 32 * 1024 * 1024
    body_seconds: float = 30.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: tuple[Header, ...] = ()


class PayloadTooLargeError(AthenaError):
    """The body is larger than the proxy takes."""

    status = 413
    title = "Payload too large"
    code = "payload_too_large"


class SlowSenderError(AthenaError):
    """The body did not arrive in time."""

    status = 408
    title = "Request timeout"
    code = "request_timeout"


class MethodNotAllowedError(AthenaError):
    """The path exists, but not for this method."""

    status = 405
    title = "Method not allowed"
    code = "method_not_allowed"


class InternalError(AthenaError):
    """The proxy itself failed on a request."""


class CallerLeftError(Exception):
    """The caller closed the connection; there is nobody to answer."""


def json_answer(value: object, *, status: int = 200, headers: tuple[Header, ...] = ()) -> Answer:
    """Return the answer whose body is `value` as JSON."""
    return Answer(status=status, body=msgspec.json.encode(value), headers=headers)


def dialect_of(path: str) -> Dialect:
    """Return the dialect in which errors on this path are told: Ollama's below /api/, OpenAI's elsewhere."""
    return Dialect.OLLAMA if path.startswith("/api/") else Dialect.OPENAI


def error_answer(dialect: Dialect, error: AthenaError, *, headers: tuple[Header, ...] = ()) -> Answer:
    """Return the error in the dialect, with Retry-After (whole seconds, at least 1) where it says when to come back."""
    if error.retry_after is not None:
        headers = (*headers, (b"retry-after", b"%d" % max(1, round(error.retry_after))))
    return Answer(status=error.status, body=codec(dialect).encode_error(error), headers=headers)


def not_found(path: str) -> Answer:
    """Return the answer for a path that is not served."""
    return error_answer(
        dialect_of(path), NotFoundError(f"There is nothing at {path}; GET /openapi.json lists the paths.")
    )


def method_not_allowed(path: str, method: str, allowed: Iterable[str]) -> Answer:
    """Return the answer for a method that the path does not serve; `Allow` names those that it does."""
    allow = ", ".join(sorted(allowed))
    error = MethodNotAllowedError(f"{path} takes {allow}, not {method}.")
    return error_answer(dialect_of(path), error, headers=((b"allow", allow.encode()),))


async def send_answer(send: Send, answer: Answer, headers: Iterable[Header] = ()) -> None:
    """Send a whole answer with its Content-Length."""
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [
                (b"content-type", answer.content_type),
                (b"content-length", b"%d" % len(answer.body)),
                *answer.headers,
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": answer.body})


def request_id(scope: Scope) -> bytes:
    """Return the caller's x-request-id if it is sane, otherwise a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            if _SANE_REQUEST_ID.fullmatch(value):
                return bytes(value)
            break
    return secrets.token_hex(8).encode()


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """Return the whole body.

    Raises PayloadTooLargeError, as soon as the Content-Length or the bytes say so, SlowSenderError, CallerLeftError.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limits.body_bytes:
            raise PayloadTooLargeError(_too_large(limits))
    try:
        async with asyncio.timeout(limits.body_seconds):
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                return _bounded(message.get("body", b""), limits)
            return await _read_pieces(message, receive, limits)
    except TimeoutError:
        raise SlowSenderError(f"The body did not arrive within {limits.body_seconds:g} s.") from None


async def _read_pieces(message: Message, receive: Receive, limits: Limits) -> bytes:
    body = bytearray()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > limits.body_bytes:
            raise PayloadTooLargeError(_too_large(limits))
        if not message.get("more_body", False):
            return bytes(body)
        message = await receive()
    raise CallerLeftError


def _bounded(body: bytes, limits: Limits) -> bytes:
    if len(body) > limits.body_bytes:
        raise PayloadTooLargeError(_too_large(limits))
    return body


def _too_large(limits: Limits) -> str:
    return f"The body is larger than {limits.body_bytes} bytes."


async def refuse_body(receive: Receive, limits: Limits) -> None:
    """Take in the rest of a refused body for a moment.

    A connection that is closed with unread bytes is reset, and the caller may lose the answer that is on its way.
    """
    taken = 0
    try:
        async with asyncio.timeout(_SECONDS_TO_TAKE_REFUSED_BODY):
            while taken <= limits.body_bytes:
                message = await receive()
                taken += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
