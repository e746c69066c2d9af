"""One HTTP/1.1 connection to an engine, and the reply that is on it."""

import asyncio
from collections.abc import Callable
from functools import cached_property
from http import HTTPStatus
from typing import cast

import httptools

from athena.router.errors import BackendError, FailureKind

HEAD_LIMIT = 64 * 1024  # bytes of a reply's head
BUFFER_LIMIT = 256 * 1024  # bytes of a body that may wait for their reader before the engine is held back
DRAIN_SECONDS = 1.0  # how long a reply that nobody reads any more may take to end, so that its connection can be kept
_BODILESS = (204, 304)
_FRAMING = (b"content-length", b"transfer-encoding")


class UpstreamReply:
    """The answer to one request, read piece by piece. Whoever holds it calls `close()` or `release()` at last.

    `headers` have lower-case names. A connection whose reply was read to its end has gone back to the pool by itself.
    """

    status = 0

    def __init__(self, connection: "Connection", loop: asyncio.AbstractEventLoop) -> None:
        self.begun = False  # a byte of it has come
        self.headed = False
        self.until_eof = False  # nothing but the end of the connection ends the body
        self._loop = loop
        self._connection: Connection | None = connection
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle_seconds = 0.0
        self._active = False
        self._error: BackendError | None = None
        self._ended = False

    @cached_property
    def headers(self) -> dict[str, str]:
        """The headers by lower-case name; of several of one name, the last."""
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._raw_headers}

    @property
    def content_type(self) -> str:
        """What the body is; empty where the engine does not say."""
        for name, value in self._raw_headers:
            if name.lower() == b"content-type":
                return value.decode("latin-1")
        return ""

    async def head(self) -> None:
        """Wait until `status` and `headers` are there; raises BackendError where they do not come."""
        while not self.headed:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def read(self) -> bytes:
        """Return the next bytes of the body as they came, b"" at its end; raises BackendError where it breaks off."""
        while True:
            chunks = self._chunks
            if chunks:
                data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                chunks.clear()
                self._size = 0
                if self._connection is not None:
                    self._connection.resume()
                return data
            if self._ended:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()

    async def read_all(self, limit: int) -> bytes:
        """Return the rest of the body, cut after `limit` bytes."""
        pieces: list[bytes] = []
        size = 0
        while size < limit and (data := await self.read()):
            pieces.append(data)
            size += len(data)
        return b"".join(pieces)[:limit]

    def set_deadline(self, seconds: float) -> None:
        """Break the reply with BackendError(TIMEOUT) unless it has ended within `seconds` from now."""
        self._set_timer(seconds, self._expire, f"no answer within {round(seconds, 1):g} s")

    def set_idle_limit(self, seconds: float) -> None:
        """In place of a deadline: break the reply once nothing has come for `seconds` (at most twice as long)."""
        self._idle_seconds = seconds
        self._active = True
        self._set_timer(seconds, self._check_idle)

    def close(self) -> None:
        """Close the connection at once, unless the reply has ended: an engine stops working for it then."""
        self._stop_timer()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def release(self) -> None:
        """Lose interest in the rest: the connection is kept if the reply ends by itself very soon, otherwise closed."""
        if self._connection is None:
            return
        self._chunks.clear()
        self._connection.resume()
        self._set_timer(DRAIN_SECONDS, self._expire, "not ended in time")

    # From here on: called by the connection.

    def add_header(self, name: bytes, value: bytes) -> None:
        if not self.headed:
            self._raw_headers.append((name, value))

    def finish_head(self, status: int) -> None:
        if status < HTTPStatus.OK:  # an interim answer; the real one follows
            self._raw_headers.clear()
            return
        names = {name.lower() for name, _ in self._raw_headers}
        self.until_eof = names.isdisjoint(_FRAMING) and status not in _BODILESS
        self.status = status
        self.headed = True
        self._wake()

    def add_data(self, data: bytes) -> bool:
        """Take bytes of the body; returns whether the engine should be held back."""
        self._chunks.append(data)
        self._size += len(data)
        self._active = True
        if self._waiter is not None:
            self._wake()
        return self._size > BUFFER_LIMIT

    def finish(self) -> None:
        self._connection = None
        self._ended = True
        self._stop_timer()
        self._wake()

    def fail(self, error: BackendError) -> None:
        self._connection = None
        if self._ended or self._error is not None:
            return
        self._error = error
        self._stop_timer()
        self._wake()

    # Waiting and its limits.

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _set_timer(self, seconds: float, action: Callable[..., None], *arguments: str) -> None:
        self._stop_timer()
        if not self._ended and self._error is None:
            self._timer = self._loop.call_later(seconds, action, *arguments)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self, detail: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort(BackendError(FailureKind.TIMEOUT, detail))

    def _check_idle(self) -> None:
        if not self._active and not self._chunks:  # bytes that wait for a slow caller are not the engine's fault
            self._expire(f"nothing came for {self._idle_seconds:g} s")
            return
        self._active = False
        self._timer = self._loop.call_later(self._idle_seconds, self._check_idle)


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    `on_idle` is called when a reply has ended and the connection can carry another; `on_lost` when it is gone.
    """

    _transport: asyncio.Transport

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_idle: Callable[["Connection"], None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self.idle_since = 0.0
        self._loop = loop
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._reply: UpstreamReply | None = None
        self._head_size = 0
        self._paused = False

    @property
    def closing(self) -> bool:
        """Whether nothing can be sent any more; `on_lost` comes a turn of the loop later."""
        return self._transport.is_closing()

    def send(self, request: bytes) -> UpstreamReply:
        """Write a request, head and body in one piece, and return its reply."""
        reply = UpstreamReply(self, self._loop)
        self._reply = reply
        self._head_size = 0
        self._transport.write(request)
        return reply

    def abort(self, error: BackendError | None = None) -> None:
        """Close at once, unsent bytes included; a reply that has not ended fails with `error`."""
        self._fail(error or BackendError(FailureKind.RESET, "the connection was closed"))
        self._transport.abort()

    def resume(self) -> None:
        """Take up reading after the reply's buffer has been emptied."""
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None:
            self.abort()  # an engine that speaks without being asked would mix up replies
            return
        reply.begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.abort(BackendError(FailureKind.MALFORMED, f"not an HTTP reply: {error}"))
            return
        if not reply.headed:
            self._head_size += len(data)
            if self._head_size > HEAD_LIMIT:
                self.abort(BackendError(FailureKind.MALFORMED, f"a reply head of more than {HEAD_LIMIT} bytes"))

    def eof_received(self) -> None:
        reply = self._reply
        if reply is not None and reply.until_eof:
            self._reply = None
            reply.finish()

    def connection_lost(self, error: Exception | None) -> None:
        reply = self._reply
        if reply is not None:
            if error is not None:
                self._fail(BackendError(FailureKind.RESET, f"the connection broke: {error}"))
            elif reply.begun:
                self._fail(BackendError(FailureKind.RESET, "the connection was closed before the reply had ended"))
            else:
                self._fail(BackendError(FailureKind.EMPTY, "the connection was closed without an answer"))
        self._on_lost(self)

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is not None:
            self._reply.add_header(name, value)

    def on_headers_complete(self) -> None:
        reply = self._reply
        if reply is None:
            raise httptools.HttpParserError("a second reply to one request")
        reply.finish_head(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        if self._reply is not None and self._reply.add_data(data) and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is None or not reply.headed:
            return
        self._reply = None
        self.resume()
        reply.finish()
        transport = self._transport
        if transport.is_closing():
            return
        if self._parser.should_keep_alive() and not transport.get_write_buffer_size():
            self._on_idle(self)
        else:
            transport.close()

    def _fail(self, error: BackendError) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.fail(error)
