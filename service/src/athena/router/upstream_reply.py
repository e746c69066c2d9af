"""The answer of an engine to one request: waited for, read piece by piece, or pushed on as it comes."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from athena.router.body import Request
from athena.router.errors import BackendError, FailureKind

if TYPE_CHECKING:
    from athena.router.connection import Connection

BUFFER_LIMIT: Final = 256 * 1024  # bytes of a body that may wait for their reader before the engine is held back
BODY_LIMIT = 64 * 1024 * 1024  # bytes of a whole reply
DRAIN_SECONDS = 1.0  # how long a reply that nobody reads any more may take to end, so that its connection can be kept
RESEND_SECONDS = 1.0  # within which an engine that was about to close a kept connection has closed it
OK: Final = 200  # the bare number: before Python 3.12 a member of HTTPStatus costs a call for each look at it
_BODILESS = (204, 304)
_FRAMING = (b"content-length", b"transfer-encoding")

# What is waited for; what comes later wakes as well.
_HEAD: Final = 1
_DATA: Final = 2
_END: Final = 3


class Origin(Protocol):
    """Where a reply's request goes."""

    def resend(self, reply: "UpstreamReply") -> None:
        """Send the request once more, over a fresh connection."""
        ...

    def over(self, reply: "UpstreamReply") -> None:
        """Take note that nothing more is wanted, or will come; it may not even have been sent."""
        ...


class UpstreamReply:
    """The answer to one request. Whoever holds it calls `close()` or `release()` at last.

    A connection whose reply was read to its end has gone back to the pool by itself. `deadline` and `idle_seconds` are
    looked at by the client's clock. `request` is kept while it may have to be sent once more. `begun` says that a byte
    has come, `headed` that `status` and headers are there; `first_heard_at` and `heard_at` when `progressed()` first
    and last saw that bytes of the body had come, 0 if never.
    """

    __slots__ = (
        "_active",
        "_broken",
        "_chunks",
        "_connection",
        "_deadline",
        "_ended",
        "_error",
        "_idle_seconds",
        "_idle_since",
        "_limit_seconds",
        "_loop",
        "_origin",
        "_push",
        "_sent_at",
        "_size",
        "_waiter",
        "_waits_for",
        "_whole",
        "begun",
        "first_heard_at",
        "fresh",
        "headed",
        "heard_at",
        "raw_headers",
        "request",
        "status",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: Origin, request: Request) -> None:
        self.status = 0
        self.begun = False
        self.headed = False
        self.first_heard_at = 0.0
        self.heard_at = 0.0
        self.fresh = False  # the connection was made for this request
        self.request = request
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self._loop = loop
        self._origin = origin
        self._connection: Connection | None = None
        self._sent_at = 0.0
        self._chunks: list[bytes] = []
        self._size = 0
        self._whole = False
        self._push: Callable[[bytes], bool] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._waits_for = 0
        self._deadline = 0.0
        self._limit_seconds = 0.0
        self._idle_seconds = 0.0
        self._idle_since = 0.0
        self._active = False
        self._error: Exception | None = None
        self._broken = False
        self._ended = False

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._ended or self._broken

    @property
    def headers(self) -> dict[str, str]:
        """The headers by lower-case name; of several of one name, the last."""
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self.raw_headers}

    @property
    def content_type(self) -> bytes:
        """What the body is; empty where the engine does not say."""
        for name, value in self.raw_headers:
            if name.lower() == b"content-type":
                return value
        return b""

    @property
    def until_eof(self) -> bool:
        """Whether nothing but the end of the connection ends the body."""
        names = {name.lower() for name, _ in self.raw_headers}
        return self.headed and names.isdisjoint(_FRAMING) and self.status not in _BODILESS

    async def head(self) -> None:
        """Wait until `status` and `headers` are there; raises BackendError where they do not come."""
        while not self.headed:
            await self._wait(_HEAD)

    async def read(self) -> bytes:
        """Return the next bytes of the body as they came, b"" at its end; raises BackendError where it breaks off."""
        while not self._chunks and not self._ended:
            await self._wait(_DATA)
        return self._take()

    async def read_all(self, limit: int) -> bytes:
        """Return the rest of the body, cut after `limit` bytes; raises BackendError where it breaks off before that."""
        pieces: list[bytes] = []
        size = 0
        while size < limit and (data := await self.read()):
            pieces.append(data)
            size += len(data)
        return b"".join(pieces)[:limit]

    async def whole(self) -> bytes:
        """Return the body once all of it is there; raises BackendError where it breaks off or is beyond BODY_LIMIT."""
        self._whole = True
        if self._connection is not None:
            self._connection.resume()
        while not self._ended:
            await self._wait(_END)
        return self._take()

    async def push(self, receiver: Callable[[bytes], bool]) -> None:
        """Hand every piece to `receiver` as it comes, and return at the end, or once the receiver calls `release()`.

        The receiver returns whether the piece brought the reply on: a comment or a part of a line resets no idle limit.
        Raises BackendError where the reply breaks off, and whatever the receiver raises, which breaks it off as well.
        """
        self._push = receiver
        try:
            if self._chunks and receiver(self._take()):
                self._active = True
            while not self._ended and self._push is receiver:
                await self._wait(_END)
        finally:
            if self._push is receiver:
                self._push = None

    def pause(self) -> None:
        """Hold the engine back: whoever takes the pushed pieces cannot keep up."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Let the engine go on."""
        self._active = True
        if self._connection is not None:
            self._connection.resume()

    def set_deadline(self, seconds: float) -> None:
        """Break the reply with BackendError(TIMEOUT) unless it has ended within `seconds` from now."""
        self._deadline = self._loop.time() + seconds
        self._limit_seconds = seconds

    def set_idle_limit(self, seconds: float) -> None:
        """In place of a deadline: break the reply once nothing has brought it on for `seconds`.

        Whoever reads it says so by `note_progress()`; of pushed pieces their receiver says whether they did.
        """
        self._deadline = 0.0
        self._idle_seconds = seconds
        self._active = True

    def note_progress(self) -> None:
        """Take note that what was read has brought the reply on."""
        self._active = True

    def check(self, now: float) -> None:
        """Break the reply off if one of its limits has passed; called by the client's clock."""
        if self._deadline:
            if now >= self._deadline:
                self.expire(f"no answer within {round(self._limit_seconds, 1):g} s")
        elif self._idle_seconds:
            # Bytes that wait for a slow caller are not the engine's fault.
            if self._active or self._chunks or (self._connection is not None and self._connection.held_back):
                self._active = False
                self._idle_since = now
            elif now - self._idle_since >= self._idle_seconds:
                self.expire(f"nothing came for {self._idle_seconds:g} s")

    def progressed(self, now: float) -> bool:
        """Whether bytes have come lately: since the last call, or within the last second where there is an idle limit.

        Bytes that wait for a slow caller count as well.
        """
        if self._deadline:
            came, self._active = self._active, False
        else:
            came = self._active or bool(self._chunks) or now - self._idle_since < 1.0
        if came:
            self.first_heard_at = self.first_heard_at or now
            self.heard_at = now
        return came

    def expire(self, detail: str) -> None:
        """Break the reply off with BackendError(TIMEOUT), in whichever phase it is."""
        self._break(BackendError(FailureKind.TIMEOUT, detail))

    def close(self) -> None:
        """Close the connection at once, unless the reply has ended: an engine stops working for it then."""
        self._push = None
        self._break(BackendError(FailureKind.RESET, "the reply was closed"))

    def release(self) -> None:
        """Lose interest in the rest: the connection is kept if the reply ends by itself very soon, otherwise closed."""
        if self.over:
            return
        self._push = _ignore
        self._chunks.clear()
        self.resume()
        self.set_deadline(DRAIN_SECONDS)
        self._wake()

    # From here on: called by the connection and the client.

    def sent(self, connection: "Connection") -> None:
        self._connection = connection
        self._sent_at = self._loop.time()
        if self.fresh:
            self.request = b""

    def finish_head(self, status: int) -> None:
        self.request = b""
        if status < OK:  # an interim answer; the real one follows
            self.raw_headers.clear()
            return
        self.status = status
        self.headed = True
        if self._waits_for == _HEAD:
            self._wake()

    def add_data(self, data: bytes) -> None:
        """Take bytes of the body."""
        if self._push is not None:
            try:
                if self._push(data):
                    self._active = True
            except Exception as error:  # it belongs to who waits in push(), not to the connection
                self._break(error)
            return
        if not self._idle_seconds:
            self._active = True
        self._chunks.append(data)
        self._size += len(data)
        if self._whole:
            if self._size > BODY_LIMIT:
                self._break(BackendError(FailureKind.MALFORMED, f"a reply of more than {BODY_LIMIT} bytes"))
            return
        if self._size > BUFFER_LIMIT and self._connection is not None:
            self._connection.pause()
        if self._waits_for <= _DATA:
            self._wake()

    def finish(self) -> None:
        self._connection = None
        self._ended = True
        self._origin.over(self)
        self._wake()

    def fail(self, error: BackendError) -> None:
        """Take note that the connection is gone."""
        self._connection = None
        if self.over:
            return
        if not self.begun and not self.fresh and self._loop.time() - self._sent_at < RESEND_SECONDS:
            # The engine had closed a kept connection before it could see the request. Had it closed it later, it may
            # have broken down at the request, and would do so again.
            self._origin.resend(self)
        else:
            self._break(error)

    def _break(self, error: Exception) -> None:
        if self.over:
            return
        self._error = error
        self._broken = True
        self.request = b""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._origin.over(self)
        self._wake()

    def _take(self) -> bytes:
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._size = 0
        if self._connection is not None:
            self._connection.resume()
        return data

    async def _wait(self, event: int) -> None:
        """Wait for an event or the end; raises the reply's error."""
        if not self._broken:
            self._waits_for = event
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
                self._waits_for = 0
        if not self._broken or (self._chunks and event == _DATA):
            return
        # Given away: an error knows, by its traceback, who waited, and so would keep the reply alive together with it.
        error, self._error = self._error, None
        try:
            raise error or BackendError(FailureKind.RESET, "the reply has broken off")
        finally:
            del error

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _ignore(_: bytes) -> bool:
    """Take what nobody wants any more."""
    return True
