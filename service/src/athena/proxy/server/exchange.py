"""One request and its answer."""

from collections.abc import Callable
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Final

from athena.errors import AthenaError
from athena.observability.identity import identify

if TYPE_CHECKING:
    from athena.proxy.server.connection import Connection

STATUS_LINES: Final = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
KEEP: Final = b"\r\n"
KEEP_HTTP_1_0: Final = b"connection: keep-alive\r\n\r\n"
CLOSE: Final = b"connection: close\r\n\r\n"

LEFT = "left"
UNREAD = "unread"
SHUTDOWN = "shutdown"


class Exchange:
    """One request, and the means to answer it: `respond()`, or `begin()`, `write()` as often as need be and `end()`.

    `started` is when the head was complete, by `perf_counter()`; `body` is whole when the application sees it. `fields`
    are header lines as bytes, each with its CRLF. Nothing is sent once the caller has gone: `gone` then says why the
    task was cancelled: the caller left, it did not read, or the server ends.
    """

    __slots__ = (
        "_chunked",
        "_connection",
        "_ending",
        "_head",
        "_identity",
        "answered",
        "body",
        "gone",
        "headers",
        "held",
        "method",
        "on_pause",
        "on_resume",
        "over",
        "path",
        "query",
        "refusal",
        "started",
    )

    def __init__(
        self,
        connection: "Connection",
        method: str,
        path: str,
        query: str,
        headers: dict[bytes, bytes],
        *,
        ending: bytes = CLOSE,
        chunked: bool = False,
    ) -> None:
        self.started = perf_counter()
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = b""
        self.gone = ""
        self.held = 0  # bytes of its body that count for all bodies together
        self.answered = False
        self.over = False
        self.refusal: AthenaError | None = None
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None
        self._connection = connection
        self._ending = ending
        self._chunked = chunked
        self._head = b""
        self._identity = b""

    @property
    def peer(self) -> str:
        """The caller's address."""
        return self._connection.peer

    @property
    def identity(self) -> bytes:
        """The caller's x-request-id if it is sane, otherwise one made for this request."""
        identity = self._identity
        if not identity:
            identity = self._identity = identify(self.headers.get(b"x-request-id"))
        return identity

    @property
    def keeps_open(self) -> bool:
        """Whether the connection can carry another request after this one."""
        return self._ending is not CLOSE

    @property
    def paused(self) -> bool:
        """Whether the caller is behind in reading: what is written now waits in memory."""
        return self._connection.paused

    def regulate(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Have what writes the answer told when the caller is behind in reading, and when it has caught up."""
        self.on_pause = pause
        self.on_resume = resume
        if self._connection.paused:
            pause()

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header by its name in lower case; the last one where it came more than once."""
        return self.headers.get(name)

    def close_after(self) -> None:
        """Let the connection end with this answer; its head says so if it is still to be sent."""
        self._ending = CLOSE

    def respond(self, status: int, fields: bytes, body: bytes) -> None:
        """Send a whole answer."""
        if self.over:
            return
        self.answered = self.over = True
        connection = self._connection
        connection.answering()
        if connection.ending:
            self._ending = CLOSE
        if self.gone:
            return
        shown = b"" if self.method == "HEAD" else body
        connection.send(
            b"%b%bcontent-length: %d\r\n%b%b" % (STATUS_LINES[status], fields, len(body), self._ending, shown)
        )
        connection.finished(self)

    def begin(self, status: int, fields: bytes) -> None:
        """Open an answer of unknown length; its head goes out together with the first piece."""
        self.answered = True
        self._connection.answering()
        if self._connection.ending or not self._chunked:
            self._ending = CLOSE  # without chunks only the end of the connection tells the end of the body
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._head = b"%b%b%b%b" % (STATUS_LINES[status], fields, framing, self._ending)

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        if not data or self.gone or self.over:
            return
        if self._chunked:
            data = b"%b%x\r\n%b\r\n" % (self._head, len(data), data)
        elif self._head:
            data = self._head + data
        self._head = b""
        self._connection.send_piece(data)

    def end(self) -> None:
        """Send the end of the body."""
        if self.over:
            return
        self.over = True
        if self.gone:
            return
        connection = self._connection
        rest = self._head + (b"0\r\n\r\n" if self._chunked else b"")
        if rest:
            connection.send(rest)
        if connection.ending:
            self._ending = CLOSE
        connection.finished(self)

    def abort(self) -> None:
        """Close the connection after what was written, without the end of the body: nobody can take it for a whole."""
        if self.over:
            return
        self.over = True
        self._ending = CLOSE
        if not self.gone:
            if self._head:
                self._connection.send(self._head)
            self._connection.finished(self)
