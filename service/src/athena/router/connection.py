"""One HTTP/1.1 connection to an engine, and the exchanges that it carries one after the other."""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from athena.outbox import Outbox
from athena.router.body import Request
from athena.router.errors import BackendError, FailureKind
from athena.router.upstream_reply import UpstreamReply

HEAD_LIMIT = 64 * 1024  # bytes of a reply's head


class Connection:
    """A connection that carries one exchange at a time.

    `on_idle` is called when a reply has ended and the connection can carry another; `on_lost` when it is gone. To the
    event loop it is an asyncio.Protocol by what it can do: it inherits nothing, so that it can be compiled as a whole.
    """

    __slots__ = (
        "_body",
        "_ended",
        "_head_size",
        "_on_idle",
        "_on_lost",
        "_outbox",
        "_parser",
        "_paused",
        "_reply",
        "_reusable",
        "_transport",
        "_unsent",
        "idle_since",
    )

    _transport: asyncio.Transport

    def __init__(
        self, outbox: Outbox, on_idle: Callable[["Connection"], None], on_lost: Callable[["Connection"], None]
    ) -> None:
        self.idle_since = 0.0
        self._outbox = outbox
        self._unsent: Request = b""
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._reply: UpstreamReply | None = None
        self._ended: UpstreamReply | None = None  # by what is being read just now
        self._reusable = False
        self._body: list[bytes] = []
        self._head_size = 0
        self._paused = False

    @property
    def closing(self) -> bool:
        """Whether nothing can be sent any more; `on_lost` comes a turn of the loop later."""
        return self._transport.is_closing()

    @property
    def held_back(self) -> bool:
        """Whether nothing is read from the engine because nobody takes it."""
        return self._paused

    def send(self, request: Request, reply: UpstreamReply) -> None:
        """Write a request, a small one in one piece, and give its answer to `reply`."""
        self._reply = reply
        self._head_size = 0
        reply.sent(self)
        self._unsent = request
        self._outbox.put(self._write)

    def _write(self) -> None:
        unsent, self._unsent = self._unsent, b""
        # A connection may be lost in the turn in which it was given a request; uvloop raises where one is written to.
        if not unsent or self._transport.is_closing():
            return
        if isinstance(unsent, bytes):
            self._transport.write(unsent)
        else:
            self._transport.writelines(unsent)

    def abort(self, error: BackendError | None = None) -> None:
        """Close at once, unsent bytes included; a reply that has not ended fails with `error`."""
        self._unsent = b""
        self._transport.abort()
        self._fail(error or BackendError(FailureKind.RESET, "the connection was closed"))

    def pause(self) -> None:
        """Stop reading, so that the engine is held back."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Take up reading again."""
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
            if self._ended is not None:  # what is wrong came after its end
                self._end(self._ended)
            return
        if self._ended is not None:
            self._end(self._ended)
        elif not reply.headed:
            self._head_size += len(data)
            if self._head_size > HEAD_LIMIT:
                self.abort(BackendError(FailureKind.MALFORMED, f"a reply head of more than {HEAD_LIMIT} bytes"))
        elif self._body and self._reply is reply:
            self._hand_over(reply)

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

    def pause_writing(self) -> None:
        """Go on: a request is given in one piece, and waits in the transport for an engine that is slow to take it."""

    def resume_writing(self) -> None:
        """Go on, as before."""

    # httptools' callbacks

    def on_message_begin(self) -> None:
        if self._reply is None:
            raise httptools.HttpParserError("a second reply to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        reply = self._reply
        if reply is not None and not reply.headed:  # a trailer is no header
            reply.raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        reply = self._reply
        if reply is not None:
            reply.finish_head(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is None or not reply.headed:
            return
        if self._body:
            self._hand_over(reply)
        if self._reply is not reply:  # whoever took the bytes found them wrong
            return
        self._reply = None
        self._ended = reply
        self._reusable = self._parser.should_keep_alive()  # the parser knows it only here

    def _end(self, reply: UpstreamReply) -> None:
        """End the reply whose last byte was read, once all of that read was understood.

        Not before: what follows the last byte would be taken for the answer to the next request.
        """
        self._ended = None
        transport = self._transport
        if not self._reusable or self._unsent or transport.get_write_buffer_size():
            transport.close()
        elif not transport.is_closing():
            self.resume()
            self._on_idle(self)
        reply.finish()  # last: who waits for the end may well ask again over this connection

    def _hand_over(self, reply: UpstreamReply) -> None:
        """Give all that one read has brought of the body to the reply, in one piece."""
        body = self._body
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        reply.add_data(data)

    def _fail(self, error: BackendError) -> None:
        reply, self._reply = self._reply, None
        self._body.clear()
        if reply is not None:
            reply.fail(error)
