"""The id of a request: the caller's own or a new one, in every log line about it, its answer, and what is asked for it.

Pure ASGI, without a web framework: the model proxy has none, and uses the functions alone.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from os import register_at_fork, urandom
from typing import Any, Final

import structlog

HEADER: Final = "x-request-id"
_NAME: Final = HEADER.encode()
# As it goes into headers and log lines, a caller's id must be harmless there, and short.
_SANE: Final = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
_ID_BYTES, _MADE_AT_ONCE = 8, 256
_current: ContextVar[str] = ContextVar("request_id", default="")
# New ids: to ask the system for each one would cost more than all else that is done for it.
_unused: Final[list[bytes]] = []
register_at_fork(after_in_child=_unused.clear)  # or forked workers would give out the same

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def identify(given: bytes | None) -> bytes:
    """Return the id that a caller gave its request if it is sane, otherwise a new one."""
    if given is not None and _SANE.fullmatch(given):
        return given
    try:
        return _unused.pop()
    except IndexError:
        digits = urandom(_ID_BYTES * _MADE_AT_ONCE).hex().encode()
        size = 2 * _ID_BYTES
        _unused.extend([digits[at : at + size] for at in range(size, len(digits), size)])
        return digits[:size]


def current() -> str:
    """Return the id of the request that is being served; empty where that is none of `RequestIdentity`'s."""
    return _current.get()


def field(identity: str) -> bytes:
    """Return the header line that hands an id on, with its CRLF; nothing where there is none."""
    return b"%b: %b\r\n" % (_NAME, identity.encode("ascii")) if identity else b""


class RequestIdentity:
    """ASGI middleware: puts the request's id into the answer's head and, as `request_id`, into every log line.

    It sets the id for the task that serves the request, which the server makes anew for each; so the handlers of errors
    that stand around the middleware know it as well.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = identify(dict(scope["headers"]).get(_NAME))
        text = identity.decode()
        _current.set(text)
        structlog.contextvars.bind_contextvars(request_id=text)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_NAME, identity)]
            await send(message)

        await self._app(scope, receive, tell)
