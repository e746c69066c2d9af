"""One caller's connection: requests in, one after the other, and their answers out in the same order."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import structlog

from athena.errors import AthenaError
from athena.proxy.server.eager import EagerTask
from athena.proxy.server.errors import (
    ShuttingDownError,
    SlowSenderError,
)
from athena.proxy.server.exchange import LEFT, SHUTDOWN, UNREAD, Exchange
from athena.proxy.server.reading import BETWEEN, Reader, Refused

if TYPE_CHECKING:
    from athena.proxy.server.listener import Server

log = structlog.get_logger()

# Requests sent ahead; whoever sends more gets the answers to these, and asks again for the rest. What comes behind them
# is read and dropped: of a connection that is not read nobody would notice that its caller has left.
_MOST_WAITING: Final = 64
_MOST_WAITING_BYTES: Final = 64 * 1024
_LARGE: Final = 16 * 1024  # bytes
_MOST_HELD: Final = 16  # pieces of a stream
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Application(Protocol):
    """What answers the requests."""

    def served_by(self, server: "Server") -> None:
        """Take note of the server that now accepts callers."""

    def serve(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """Answer at once and return None, or return what will answer; that is cancelled when the caller goes."""

    def admit(self, exchange: Exchange) -> AthenaError | None:
        """Return why the rest of a body is not even to be taken in, by what the head says; None where it is."""

    def refuse(self, exchange: Exchange, error: AthenaError) -> None:
        """Answer at once with an error of the server's; where no request was understood the path is empty."""


class Connection(Reader):
    """A caller's connection.

    A caller that closes its side, or half of it, counts as gone: a program that was killed, a browser's closed tab and
    a `shutdown()` by one that would still read all look the same from here, and the first two are what happens. An
    engine that goes on writing for nobody costs everybody else its time.
    """

    __slots__ = (
        "_application",
        "_current",
        "_out",
        "_piece_at",
        "_pumping",
        "_task",
        "_unsent",
        "_waiting",
        "_waiting_bytes",
        "paused",
        "peer",
    )

    def __init__(self, server: "Server") -> None:
        super().__init__(server)
        self.paused = False
        self.peer = ""
        self._application = server.application
        self._current: Exchange | None = None
        self._task: EagerTask | None = None
        self._waiting: deque[Exchange] = deque()
        self._waiting_bytes = 0
        self._out: list[bytes] = []  # what is to be written at the end of this turn of the loop
        self._piece_at = 0.0  # when a piece of a stream was last given to be written
        self._pumping = False
        self._unsent = 0

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where the caller is."""
        self.transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) and name else ""
        self._server.opened(self)

    def eof_received(self) -> bool:
        """Take the caller for gone; what has been answered still goes out."""
        self._leave(LEFT)
        self.flush()
        return False

    def connection_lost(self, _: Exception | None) -> None:
        """Cancel the work for a caller that has gone."""
        self._server.closed(self)
        self._leave(LEFT)
        self._out.clear()
        self._release(self.held)
        self._receiving = self._pieces = None
        del self._parser  # each knows the other: the collector alone would free them, and it comes rarely

    def pause_writing(self) -> None:
        """The caller is behind: it has `unread_seconds` to take something."""
        self.paused = True
        self._unsent = self.transport.get_write_buffer_size()
        self._server.watches.unread.enter(self, self._loop.time())
        if self._current is not None and self._current.on_pause is not None:
            self._current.on_pause()

    def resume_writing(self) -> None:
        """The caller has caught up."""
        self.paused = False
        self._server.watches.unread.drop(self)
        current = self._current
        if current is not None:
            if current.on_resume is not None:
                current.on_resume()
        elif self._waiting:
            self._pump()

    # Answering

    def refuse(self, error: AthenaError) -> None:
        """Answer the request that is being received, or nobody's, with an error; it is the last on this connection."""
        exchange = self._stop_reading() or Exchange(self, "", "", "", {})
        exchange.close_after()
        exchange.refusal = error
        self._server.refused[error.code] += 1
        self._server.watches.idle.drop(self)
        if self._current is None and not self._waiting and not self.paused:
            self._start(exchange)
        else:
            self._waiting.append(exchange)

    def _take(self, exchange: Exchange) -> None:
        if self._current is None and not self._waiting and not self.paused:
            self._start(exchange)
        else:
            self._queue(exchange)

    def _queue(self, exchange: Exchange) -> None:
        self._waiting.append(exchange)
        self._waiting_bytes += len(exchange.body)
        if len(self._waiting) >= _MOST_WAITING or self._waiting_bytes > _MOST_WAITING_BYTES:
            exchange.close_after()
            self._deaf = self._sends_on = True
            self._size = 0
            raise Refused

    def _start(self, exchange: Exchange) -> None:
        self._current = exchange
        server = self._server
        if exchange.refusal is None and not server.draining:
            work = self._application.serve(exchange)
            if work is not None:
                task = self._task = EagerTask(self._run(exchange, work))
                task.run()
            return
        if exchange.refusal is None:
            exchange.refusal = ShuttingDownError("This server is being shut down; ask again.", retry_after=1)
        self._application.refuse(exchange, exchange.refusal)

    async def _run(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        server = self._server
        server.working += 1
        if server.working == 1:
            server.wakefulness.asked()
        try:
            await work
        except Exception:
            log.exception(
                "unexpected_error",
                method=exchange.method,
                path=exchange.path,
                request_id=exchange.identity.decode(),
            )
        finally:
            server.working -= 1
            if not server.working:
                server.wakefulness.answered()
            exchange.abort()  # no harm to one that has been answered

    def answering(self) -> None:
        """The first of an answer is there."""
        if self._server.working == 1:
            self._server.wakefulness.answering()

    def send(self, data: bytes) -> None:
        """Write to the caller, at the end of this turn of the loop; at once what is large enough to hold it up."""
        self._out.append(data)
        if len(data) > _LARGE:
            self.flush()
        elif len(self._out) == 1:
            self._server.outbox.put(self.flush)

    def send_piece(self, data: bytes) -> None:
        """Write a piece of a stream to the caller: at once, unless very many come."""
        out = self._out
        before, self._piece_at = self._piece_at, self._loop.time()
        if out:
            out.append(data)
            if len(out) > _MOST_HELD or len(data) > _LARGE:
                self.flush()
        elif len(data) <= _LARGE and self._server.coalescer.holds(self._piece_at, before, self.flush):
            out.append(data)
        elif not self.transport.is_closing():
            self.transport.write(data)

    def flush(self) -> None:
        """Write what is to be written."""
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            if not self.transport.is_closing():  # uvloop raises where one is written to that was lost in this turn
                self.transport.write(data)

    @property
    def ending(self) -> bool:
        """Whether this connection takes no request after the present one."""
        return self._server.winding_down

    def finished(self, exchange: Exchange) -> None:
        """Go on after an answer has been written."""
        self._current = self._task = None
        if exchange.held:
            self._release(exchange.held)
        if not exchange.keeps_open:
            self._close()
        elif self._waiting:
            self._pump()
        elif self._phase == BETWEEN:
            self._server.watches.idle.since[self] = self._loop.time()
        else:
            self._invite()

    def _invite(self) -> None:
        """Ask for the body of a caller that waits to be asked, once it is its turn to be spoken to."""
        if self._continue_due and self._current is None and not self._waiting:
            self._continue_due = False
            self.send(_CONTINUE)

    def _pump(self) -> None:
        """Answer those that wait, as long as each is answered at once and the caller reads."""
        if self._pumping:
            return
        self._pumping = True
        while self._waiting and self._current is None and not self.paused and not self.transport.is_closing():
            exchange = self._waiting.popleft()
            self._waiting_bytes -= len(exchange.body)
            self._start(exchange)
        self._pumping = False

    # The end

    def _close(self) -> None:
        """Close after what was written.

        A connection that is closed with bytes unread is reset, and the answer on its way is lost to the caller: so the
        server says that it has ended, and takes in for a moment what the caller is still sending.
        """
        self._waiting.clear()
        self._deaf = True
        if (self._sends_on or self._phase != BETWEEN) and not self.transport.is_closing():
            self.flush()
            self.transport.write_eof()
            self.transport.resume_reading()
            self._server.watches.linger.enter(self, self._loop.time())
        else:
            self.close()

    def close(self) -> None:
        """Close once what was written has gone out; a caller that never takes it does not keep the connection."""
        self.flush()
        if self.transport.get_write_buffer_size():
            self._server.watches.unread.enter(self, self._loop.time())
        self.transport.close()

    def _leave(self, why: str) -> None:
        """Give up what is being done for the caller."""
        self._waiting.clear()
        exchange, task = self._current, self._task
        self._current = self._task = None
        if exchange is not None and not exchange.gone:
            exchange.gone = why
            if task is not None:
                task.cancel()

    def end_if_idle(self) -> None:
        """Close unless there is something to answer."""
        if self._current is None and not self._waiting and self._phase == BETWEEN and not self._deaf:
            self.close()

    def break_off(self) -> None:
        """Cancel what is being done, which may still tell the caller so; close where nothing is."""
        if self._task is not None and not self.paused:
            self._task.cancel()
        else:
            self.end_now()

    def end_now(self) -> None:
        """Close at once, whatever goes on."""
        self._leave(SHUTDOWN)
        self.transport.abort()

    # What is overdue

    def head_overdue(self) -> None:
        """The sender has not finished its head."""
        self.refuse(SlowSenderError(f"The head did not arrive within {self._server.limits.head_seconds:g} s."))

    def body_overdue(self) -> None:
        """The sender has not finished its body."""
        self.refuse(SlowSenderError(f"The body did not arrive within {self._server.limits.body_seconds:g} s."))

    def unread_overdue(self) -> bool:
        """The caller has not read all; break off, and return True, if it has read nothing since the last look."""
        unsent = self.transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._unsent = unsent
            self._server.watches.unread.enter(self, self._loop.time())
            return False
        self._leave(UNREAD)
        self.transport.abort()
        return True
