"""What a caller sends, read within limits: bytes in, requests out."""

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Final, NoReturn, cast
from urllib.parse import unquote

import httptools

from athena.errors import AthenaError
from athena.proxy.server.errors import BadRequestError, HeadTooLargeError, OutOfRoomError, PayloadTooLargeError
from athena.proxy.server.exchange import CLOSE, KEEP, KEEP_HTTP_1_0, Exchange

if TYPE_CHECKING:
    from athena.proxy.server.connection import Connection
    from athena.proxy.server.listener import Server

# What is being received.
BETWEEN: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_OFFERS = {b"upgrade", b"connection", b"http2-settings", b"expect"}


class Refused(Exception):  # noqa: N818 - it ends a parser's run
    """Raised inside the parser so that it goes no further."""


class Reader:
    """The half of a connection that listens.

    To the event loop it is an asyncio.Protocol by what it can do. It inherits nothing, because the compiler turns only
    such a class into one of C, with what it knows at fixed places.
    """

    __slots__ = (
        "_continue_due",
        "_deaf",
        "_fed",
        "_feeding",
        "_headers",
        "_headers_left",
        "_loop",
        "_parser",
        "_phase",
        "_pieces",
        "_receiving",
        "_sends_on",
        "_server",
        "_size",
        "_upgrading",
        "_url",
        "held",
        "transport",
    )

    # What of it may be deleted, for the compiler.
    __deletable__ = ("_parser",)
    transport: asyncio.Transport

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._loop = server.loop
        self._parser = httptools.HttpRequestParser(self)
        self._phase = BETWEEN
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._headers_left = 0
        self._feeding = 0  # bytes that the parser is looking at
        self._fed = 0  # of a request that did not come in one piece
        self._receiving: Exchange | None = None
        self._pieces: bytearray | None = None
        self._size = 0
        self.held = 0  # bytes of the bodies that count for all bodies together
        self._continue_due = False
        self._upgrading = False
        self._deaf = False  # nothing that comes is looked at any more
        self._sends_on = False  # the caller may be sending what nobody will look at

    @abstractmethod
    def _take(self, exchange: Exchange) -> None:
        """Answer a request, or let it wait for those before it."""

    @abstractmethod
    def _invite(self) -> None:
        """Ask for the body of a caller that waits to be asked, once it is its turn to be spoken to."""

    @abstractmethod
    def refuse(self, error: AthenaError) -> None:
        """Answer with an error and read no further."""

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
            if not isinstance(error.__context__, Refused):
                raise
        except httptools.HttpParserError as error:
            if not self._deaf:
                self.refuse(BadRequestError(f"The request cannot be read as HTTP: {error}."))
        else:
            if self._phase != BETWEEN:
                self._await_rest(len(data))

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
            target = self._origin_form(target)
        path, _, query = target.decode("latin-1").partition("?")
        if "%" in path:
            path = unquote(path)
        current = parser.get_http_version() == "1.1"
        ending = (KEEP if current else KEEP_HTTP_1_0) if parser.should_keep_alive() else CLOSE
        method = parser.get_method().decode("ascii")
        connection = cast("Connection", self)  # nothing else is a reader
        exchange = Exchange(connection, method, path, query, headers, ending=ending, chunked=current)
        self._receiving = exchange
        self._headers = {}  # what comes behind the body is no header, whatever its name
        # Of one that came in several pieces it is not known where in the first of them it began.
        if self._fed or self._feeding > self._server.limits.head_bytes:
            self._measure_head(exchange)
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
            self._hold(exchange, len(data))
        elif exchange.body:
            # Not a list of the pieces: many small ones would take many times the memory of the whole.
            self._pieces = bytearray(exchange.body)
            self._pieces += data
            self._hold(exchange, self._size)
        else:
            exchange.body = data

    def on_message_complete(self) -> None:
        """Answer the request, or let it wait for those before it."""
        if self._upgrading:
            return
        exchange = self._receiving
        if exchange is None:
            return
        self._phase = BETWEEN
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
        self._take(exchange)

    # Receiving

    @property
    def unfinished(self) -> int:
        """How many bytes are held of a body that is still being sent."""
        return self._receiving.held if self._receiving is not None else 0

    def _hold(self, exchange: Exchange, size: int) -> None:
        """Count what a body holds, and have one given up where all of them hold too much."""
        server = self._server
        exchange.held += size
        self.held += size
        server.held += size
        while server.held > server.limits.all_body_bytes:
            detail = f"The requests under way hold {server.limits.all_body_bytes} bytes in their bodies."
            error = OutOfRoomError(detail, retry_after=1)
            other = server.to_make_room_for(cast("Connection", self))  # nothing else is a reader
            if other is self:
                self._refuse_in_parser(error)
            other.refuse(error)

    def _release(self, size: int) -> None:
        """Give back what a body held."""
        size = min(size, self.held)
        self.held -= size
        self._server.held -= size

    def _await_rest(self, size: int) -> None:
        """Let the sender's time begin, or go on, and hold a head without end to its size."""
        server = self._server
        first = not self._fed
        self._fed += 1 if first else size  # the first bytes may in part have been the end of an earlier request
        if self._phase == _HEAD:
            if self._fed > server.limits.head_bytes:
                self.refuse(self._head_too_large())
            elif first:
                server.watches.head.enter(self, self._loop.time())
        elif self._fed - self._size > server.limits.body_bytes + server.limits.head_bytes:
            self.refuse(self._too_large())  # it goes on between the pieces, or behind them
        elif self not in server.watches.body.since:
            server.watches.head.drop(self)
            if self._receiving is not None and (error := server.application.admit(self._receiving)) is not None:
                self.refuse(error)
            else:
                server.watches.body.enter(self, self._loop.time())

    def _measure_head(self, exchange: Exchange) -> None:
        """Refuse a head that is complete, but larger than it may be."""
        size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in exchange.headers.items())
        if size > self._server.limits.head_bytes:
            self._refuse_in_parser(self._head_too_large())

    def _without_upgrade(self, rest: bytes) -> None:
        """Read a request that offers another protocol as if it had not; its body is still to come.

        Java's HTTP client offers HTTP/2 with every request. The parser leaves the body of such a request alone, so the
        head is read once more without the offer.
        """
        offer, self._upgrading = self._receiving, False
        watches = self._server.watches
        watches.head.drop(self)  # what comes is read as a new request, of which no piece has come before
        watches.body.drop(self)
        if offer is None or offer.method == "CONNECT":
            self.refuse(BadRequestError("There is no tunnel through this server."))
            return
        kept = [b"%b: %b\r\n" % field for field in offer.headers.items() if field[0] not in _OFFERS]
        line = b"%b %b HTTP/1.1\r\n" % (offer.method.encode("ascii"), self._url)
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"%b%b\r\n%b" % (line, b"".join(kept), rest))

    def _discard(self, size: int) -> None:
        """Drop what comes after the last request; a caller that sends without end is held back, and then cut off."""
        self._sends_on = True
        self._size += size
        if self._size > self._server.limits.body_bytes:
            if self in self._server.watches.linger.since:
                self.transport.abort()
            else:
                self.transport.pause_reading()

    def _head_too_large(self) -> HeadTooLargeError:
        return HeadTooLargeError(f"The head is larger than {self._server.limits.head_bytes} bytes.")

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(f"The body is larger than {self._server.limits.body_bytes} bytes.")

    def _origin_form(self, target: bytes) -> bytes:
        """Return the path and query of an absolute target, as proxies send it; anything else is left as it is."""
        if not target.startswith((b"http://", b"https://")):
            return target
        try:
            url = httptools.parse_url(target)
        except httptools.HttpParserInvalidURLError:
            self._refuse_in_parser(BadRequestError("The target of the request is no URL."))
        return (url.path or b"/") + (b"?" + url.query if url.query is not None else b"")

    def _refuse_in_parser(self, error: AthenaError) -> NoReturn:
        self.refuse(error)
        raise Refused

    def _stop_reading(self) -> Exchange | None:
        """Look at nothing that comes from now on; returns the request that was being received."""
        exchange, self._receiving = self._receiving, None
        self._pieces = None
        self._phase = BETWEEN
        self._deaf = self._sends_on = True
        self._size = 0
        self._server.watches.head.drop(self)
        self._server.watches.body.drop(self)
        if exchange is not None:
            self._release(exchange.held)
            exchange.held = 0
        return exchange
