"""One caller's connection: requests in, one after the other, and their answers out in the same order."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import unquote

import httptools
import structlog

from athena.errors import AthenaError
from athena.proxy.server.errors import (
    BadRequestError,
    HeadTooLargeError,
    PayloadTooLargeError,
    ShuttingDownError,
    SlowSenderError,
)
from athena.proxy.server.exchange import CLOSE, KEEP, KEEP_HTTP_1_0, LEFT, SHUTDOWN, UNREAD, Exchange

if TYPE_CHECKING:
    from athena.proxy.server.listener import Server

log = structlog.get_logger()

_BETWEEN, _HEAD, _BODY = range(3)  # what is being received
_MOST_WAITING = 64  # requests sent ahead; whoever sends more gets the answers to these, and asks again for the rest
_MOST_WAITING_BYTES = 64 * 1024  # after so much is sent ahead nothing more is read until the answers are out
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Application(Protocol):
    """What answers the requests."""

    def served_by(self, server: "Server") -> None:
        """Take note of the server that now accepts callers."""

    def serve(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """Answer at once and return None, or return what will answer; that is cancelled when the caller goes."""

    def refuse(self, exchange: Exchange, error: AthenaError) -> None:
        """Answer at once with an error of the server's; where no request was understood the path is empty."""


class _Refused(Exception):  # noqa: N818 - it ends a parser's run
    """Raised inside the parser so that it goes no further."""


class Connection(asyncio.Protocol):
    """A caller's connection.

    A caller that closes its side, or half of it, counts as gone: a program that was killed, a browser's closed tab and
    a `shutdown()` by one that would still read all look the same from here, and the first two are what happens. An
    engine that goes on writing for nobody costs everybody else its time.
    """

    __slots__ = (
        "_application",
        "_continue_due",
        "_current",
        "_deaf",
        "_fed",
        "_feeding",
        "_headers",
        "_headers_left",
        "_loop",
        "_parser",
        "_phase",
        "_pieces",
        "_pumping",
        "_receiving",
        "_sends_on",
        "_server",
        "_size",
        "_task",
        "_unsent",
        "_upgrading",
        "_url",
        "_waiting",
        "_waiting_bytes",
        "paused",
        "peer",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, server: "Server") -> None:
        self.paused = False
        self.peer = ""
        self._server = server
        self._application = server.application
        self._loop = server.loop
        self._parser = httptools.HttpRequestParser(self)
        self._phase = _BETWEEN
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._headers_left = 0
        self._feeding = 0  # bytes that the parser is looking at
        self._fed = 0  # of a request that did not come in one piece
        self._receiving: Exchange | None = None
        self._pieces: bytearray | None = None
        self._size = 0
        self._continue_due = False
        self._upgrading = False
        self._deaf = False  # nothing that comes is looked at any more
        self._sends_on = False  # the caller may be sending what nobody will look at
        self._current: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Exchange] = deque()
        self._waiting_bytes = 0
        self._pumping = False
        self._unsent = 0

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where the caller is."""
        self.transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) and name else ""
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._deaf:
            self._discard(len(data))
            return
        self._feeding = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Refused):
                raise
        except httptools.HttpParserError as error:
            if not self._deaf:
                self.refuse(BadRequestError(f"The request cannot be read as HTTP: {error}."))
        else:
            if self._phase is not _BETWEEN:
                self._await_rest(len(data))

    def eof_received(self) -> bool:
        """Take the caller for gone; what has been answered still goes out."""
        self._leave(LEFT)
        return False

    def connection_lost(self, _: Exception | None) -> None:
        """Cancel the work for a caller that has gone."""
        self._server.closed(self)
        self._leave(LEFT)
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

    # What the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._server.watches.idle.since.pop(self, None)
        self._phase = _HEAD
        self._url = b""
        self._headers = {}
        self._headers_left = self._server.limits.headers
        self._fed = 0
        self._pieces = None
        self._size = 0

    def on_url(self, url: bytes) -> None:
        """Take the target, which may come in parts."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        self._headers[name.lower()] = value
        self._headers_left -= 1
        if self._headers_left < 0:
            self._refuse_in_parser(
                HeadTooLargeError(f"The request has more than {self._server.limits.headers} headers.")
            )

    def on_headers_complete(self) -> None:
        """Look at what the head says of the body."""
        self._phase = _BODY
        parser, headers = self._parser, self._headers
        target = self._url
        if target[:1] != b"/":
            target = _origin_form(target)
        path, _, query = target.decode("latin-1").partition("?")
        if "%" in path:
            path = unquote(path)
        current = parser.get_http_version() == "1.1"
        ending = (KEEP if current else KEEP_HTTP_1_0) if parser.should_keep_alive() else CLOSE
        method = parser.get_method().decode("ascii")
        exchange = Exchange(self, method, path, query, headers, ending=ending, chunked=current)
        self._receiving = exchange
        if self._fed + self._feeding > self._server.limits.head_bytes:
            self._measure_head()
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._server.limits.body_bytes:
            self._refuse_in_parser(self._too_large())
        if b"upgrade" in headers or method == "CONNECT":
            self._upgrading = parser.should_upgrade()
        if b"expect" in headers and current and headers[b"expect"].lower() == b"100-continue":
            self._continue_due = True
            self._invite()

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._size += len(data)
        exchange = self._receiving
        if self._size > self._server.limits.body_bytes or exchange is None:
            self._refuse_in_parser(self._too_large())
        elif self._pieces is not None:
            self._pieces += data
        elif exchange.body:
            # Not a list of the pieces: many small ones would take many times the memory of the whole.
            self._pieces = bytearray(exchange.body)
            self._pieces += data
        else:
            exchange.body = data

    def on_message_complete(self) -> None:
        """Answer the request, or let it wait for those before it."""
        if self._upgrading:
            return
        exchange = self._receiving
        if exchange is None:
            return
        self._phase = _BETWEEN
        self._receiving = None
        self._continue_due = False
        if self._pieces is not None:
            exchange.body = bytes(self._pieces)
            self._pieces = None
        if self._fed:
            self._fed = 0
            watches = self._server.watches
            watches.head.drop(self)
            watches.body.drop(self)
        if not exchange.keeps_open:
            self._deaf = True  # whatever comes after a last request has no meaning
        if self._current is None and not self._waiting and not self.paused:
            self._start(exchange)
        else:
            self._queue(exchange)

    # Receiving

    def _await_rest(self, size: int) -> None:
        """Let the sender's time begin, or go on, and hold a head without end to its size."""
        server = self._server
        first = not self._fed
        self._fed += 1 if first else size  # the first bytes may in part have been the end of an earlier request
        if self._phase is _HEAD:
            if self._fed > server.limits.head_bytes:
                self.refuse(self._head_too_large())
            elif first:
                server.watches.head.enter(self, self._loop.time())
        elif self not in server.watches.body.since:
            server.watches.head.drop(self)
            server.watches.body.enter(self, self._loop.time())

    def _measure_head(self) -> None:
        """Refuse a head that is complete, but larger than it may be."""
        size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers.items())
        if size > self._server.limits.head_bytes:
            self._refuse_in_parser(self._head_too_large())

    def _invite(self) -> None:
        """Ask for the body of a caller that waits to be asked, once it is its turn to be spoken to."""
        if self._continue_due and self._current is None and not self._waiting:
            self._continue_due = False
            self.send(_CONTINUE)

    def _without_upgrade(self, rest: bytes) -> None:
        """Read a request that offers another protocol as if it had not; its body is still to come.

        Java's HTTP client offers HTTP/2 with every request. The parser leaves the body of such a request alone, so the
        head is read once more without the offer.
        """
        offer, self._upgrading = self._receiving, False
        if offer is None or offer.method == "CONNECT":
            self.refuse(BadRequestError("There is no tunnel through this server."))
            return
        kept = [
            b"%b: %b\r\n" % field
            for field in offer.headers.items()
            if field[0] not in {b"upgrade", b"connection", b"http2-settings", b"expect"}
        ]
        line = b"%b %b HTTP/1.1\r\n" % (offer.method.encode("ascii"), self._url)
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"%b%b\r\n%b" % (line, b"".join(kept), rest))

    def _discard(self, size: int) -> None:
        """Drop what comes after the last request; a caller that sends without end is cut off."""
        self._sends_on = True
        self._size += size
        if self._size > self._server.limits.body_bytes and self in self._server.watches.linger.since:
            self.transport.abort()

    def _head_too_large(self) -> HeadTooLargeError:
        return HeadTooLargeError(f"The head is larger than {self._server.limits.head_bytes} bytes.")

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(f"The body is larger than {self._server.limits.body_bytes} bytes.")

    def _refuse_in_parser(self, error: AthenaError) -> None:
        self.refuse(error)
        raise _Refused

    def refuse(self, error: AthenaError) -> None:
        """Answer the request that is being received, or nobody's, with an error; it is the last on this connection."""
        exchange = self._receiving or Exchange(self, "", "", "", {})
        exchange.close_after()
        exchange.refusal = error
        self._receiving = self._pieces = None
        self._phase = _BETWEEN
        self._deaf = self._sends_on = True
        self._size = 0
        self._server.refused[error.code] += 1
        watches = self._server.watches
        watches.head.drop(self)
        watches.body.drop(self)
        watches.idle.drop(self)
        if self._current is None and not self._waiting and not self.paused:
            self._start(exchange)
        else:
            self._waiting.append(exchange)

    # Answering

    def _queue(self, exchange: Exchange) -> None:
        self._waiting.append(exchange)
        self._waiting_bytes += len(exchange.body)
        if len(self._waiting) >= _MOST_WAITING:
            exchange.close_after()
            self._deaf = self._sends_on = True
            self.transport.pause_reading()
            raise _Refused
        if self._waiting_bytes > _MOST_WAITING_BYTES:
            self.transport.pause_reading()

    def _start(self, exchange: Exchange) -> None:
        self._current = exchange
        server = self._server
        if exchange.refusal is None and not server.draining:
            work = self._application.serve(exchange)
            if work is not None:
                self._task = self._loop.create_task(self._run(exchange, work))
            return
        if exchange.refusal is None:
            exchange.refusal = ShuttingDownError("This server is being shut down; ask again.", retry_after=1)
        self._application.refuse(exchange, exchange.refusal)

    async def _run(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("unexpected_error", method=exchange.method, path=exchange.path)
        finally:
            exchange.abort()  # no harm to one that has been answered

    def send(self, data: bytes) -> None:
        """Write to the caller."""
        self.transport.write(data)

    @property
    def ending(self) -> bool:
        """Whether this connection takes no request after the present one."""
        return self._server.draining

    def finished(self, exchange: Exchange) -> None:
        """Go on after an answer has been written."""
        self._current = self._task = None
        if not exchange.keeps_open:
            self._close()
        elif self._waiting:
            self._pump()
        elif self._phase is _BETWEEN:
            self._server.watches.idle.since[self] = self._loop.time()
        else:
            self._invite()

    def _pump(self) -> None:
        """Answer those that wait, as long as each is answered at once and the caller reads."""
        if self._pumping:
            return
        self._pumping = True
        while self._waiting and self._current is None and not self.paused and not self.transport.is_closing():
            exchange = self._waiting.popleft()
            self._waiting_bytes -= len(exchange.body)
            if not self._waiting and not self._deaf:
                self.transport.resume_reading()
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
        if (self._sends_on or self._phase is not _BETWEEN) and not self.transport.is_closing():
            self.transport.write_eof()
            self.transport.resume_reading()
            self._server.watches.linger.enter(self, self._loop.time())
        else:
            self.close()

    def close(self) -> None:
        """Close once what was written has gone out; a caller that never takes it does not keep the connection."""
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
        if self._current is None and not self._waiting and self._phase is _BETWEEN and not self._deaf:
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


def _origin_form(target: bytes) -> bytes:
    """Return the path and query of an absolute target, as proxies send it; anything else is left as it is."""
    if not target.startswith((b"http://", b"https://")):
        return target
    url = httptools.parse_url(target)
    return (url.path or b"/") + (b"?" + url.query if url.query is not None else b"")
