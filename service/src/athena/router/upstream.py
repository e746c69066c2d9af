"""The HTTP/1.1 client that speaks to the engines: keeps connections, and gives every failure its kind."""

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

from athena.outbox import Outbox
from athena.router.body import Request, request_of
from athena.router.connection import Connection
from athena.router.errors import BackendError, FailureKind
from athena.router.names import Names
from athena.router.upstream_reply import UpstreamReply

CONNECT_SECONDS = 2.0  # a host whose packets are dropped costs an attempt this much
CONNECTING_AT_ONCE = 4  # to one origin; mlx_lm.server's backlog holds five
KEPT_PER_ORIGIN: Final = 256  # connections that may wait for their next request
KEPT_SECONDS = 30.0  # how long they may
CLOCK_SECONDS = 0.1  # how often the limits of replies are looked at
_KNOWN_URLS = 1024
_GET: Final = b"GET"
_POST: Final = b"POST"
_DELETE: Final = b"DELETE"


class Reply(NamedTuple):
    """A whole small reply. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Address(NamedTuple):
    """Where to connect to."""

    host: str
    port: int
    tls: bool


class _Place(NamedTuple):
    """An URL taken apart: whom to ask, and the start of the head of a GET, of a POST and of a DELETE of JSON."""

    origin: "_Origin"
    get: bytes
    post: bytes
    delete: bytes


def _take_apart(url: str) -> tuple[_Address, bytes]:
    """Return where an URL leads, and the request line's end with the host's header."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        authority = parts.netloc.rpartition("@")[2]
        head = f" {path} HTTP/1.1\r\nhost: {authority}\r\n".encode("ascii")
    except ValueError as error:
        raise BackendError(FailureKind.REFUSED, f"{url} is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise BackendError(FailureKind.REFUSED, f"{url} is not an http or https URL")
    tls = parts.scheme == "https"
    return _Address(host, port or (443 if tls else 80), tls), head


def _fields(headers: Mapping[str, str] | None) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items()).encode("latin-1")


def _plain(error: OSError) -> str:
    """Return what went wrong in words: the system's, without numbers and addresses where it has its own."""
    if isinstance(error, ConnectionRefusedError):
        return "Connection refused"
    return error.strerror or str(error)


class _Origin:
    """The connections to one address: those that wait for their next request, the most recently used at the right,
    those that are being made, and the requests for which there is none yet.
    """

    def __init__(self, client: "UpstreamClient", address: _Address) -> None:
        self.idle: deque[Connection] = deque()
        self._client = client
        self._address = address
        self._connecting: dict[UpstreamReply, asyncio.Task[None]] = {}
        self._waiting: deque[UpstreamReply] = deque()

    def send(self, reply: UpstreamReply) -> None:
        """Send the reply's request over a kept connection, or over one that is made for it."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            if not connection.closing:
                connection.send(reply.request, reply)
                return
        self.resend(reply)

    def resend(self, reply: UpstreamReply) -> None:
        """Send the reply's request over a connection that is made for it, or that becomes free before."""
        if len(self._connecting) < CONNECTING_AT_ONCE:
            self._connect(reply)
        else:
            self._waiting.append(reply)

    def send_afresh(self, reply: UpstreamReply) -> None:
        """Send the reply's request over a connection that is made for it, however many are being made, and only once.

        It waits for none: it would be given the first that becomes free, which the engine may be about to close.
        """
        self._connect(reply)

    def over(self, reply: UpstreamReply) -> None:
        self._client.limited.discard(reply)
        if self._connecting and (task := self._connecting.pop(reply, None)) is not None:
            task.cancel()
            self._connect_next()

    def put(self, connection: Connection) -> None:
        """Take back a connection whose reply has ended."""
        if self._client.closed:
            connection.abort()
            return
        if self._waiting and (reply := self._next_waiting()) is not None:
            connection.send(reply.request, reply)
            return
        self.idle.append(connection)
        self._client.keep(connection)
        if len(self.idle) > KEPT_PER_ORIGIN:
            self.idle.popleft().abort()

    def forget(self, connection: Connection) -> None:
        if connection in self.idle:
            self.idle.remove(connection)
        self._client.forget(connection)

    def close(self) -> None:
        """Fail what has not been sent yet."""
        for reply in (*self._connecting, *self._waiting):
            reply.close()

    def _connect(self, reply: UpstreamReply) -> None:
        self._connecting[reply] = self._client.loop.create_task(self._connect_for(reply))

    def _connect_next(self) -> None:
        while len(self._connecting) < CONNECTING_AT_ONCE and (reply := self._next_waiting()) is not None:
            self._connect(reply)

    def _next_waiting(self) -> UpstreamReply | None:
        while self._waiting:
            reply = self._waiting.popleft()
            if not reply.over:
                return reply
        return None

    async def _connect_for(self, reply: UpstreamReply) -> None:
        try:
            connection = await self._client.connect(self._address, self)
        except BackendError as error:
            self._connecting.pop(reply, None)
            reply.fresh = True
            reply.fail(error)
            if error.kind is FailureKind.TIMEOUT:  # the others would wait as long, one after the other
                while (waiting := self._next_waiting()) is not None:
                    waiting.fresh = True
                    waiting.fail(error)
        else:
            self._connecting.pop(reply, None)
            reply.fresh = True
            connection.send(reply.request, reply)
        self._connect_next()


class UpstreamClient:
    """One per event loop, made while it runs. Every failure is a BackendError with its kind.

    `verify` is the TLS context; without one the system's authorities are trusted. `names` can be another client's.
    """

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        names: Names | None = None,
    ) -> None:
        self.closed = False
        self.connections: set[Connection] = set()
        self.limited: set[UpstreamReply] = set()
        self.loop = asyncio.get_running_loop()
        self.names = names or Names()
        self._outbox = Outbox(self.loop)
        self._verify = verify
        self._connect_seconds = connect_seconds
        self._origins: dict[_Address, _Origin] = {}
        self._places: dict[str, _Place] = {}
        self._clock: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()

    async def get(self, url: str, *, headers: Mapping[str, str] | None = None, within: float = 5.0) -> Reply:
        """Return the whole answer to a GET, whatever its status; the whole of it has `within` seconds."""
        return await self._whole(self._start(_GET, url, b"", _fields(headers), within))

    async def post(
        self, url: str, body: bytes, *, headers: Mapping[str, str] | None = None, within: float = 5.0
    ) -> Reply:
        """Return the whole answer to a POST of JSON, whatever its status; the whole of it has `within` seconds."""
        return await self._whole(self._start(_POST, url, body, _fields(headers), within))

    def start(
        self, url: str, body: bytes, *, fields: bytes = b"", rest: memoryview | None = None, within: float
    ) -> UpstreamReply:
        """POST JSON and return its answer before any of it is there: sent at once where a connection is kept.

        `fields` are further header lines, each with its CRLF; `rest` follows `body`.

        `within` seconds from now the answer breaks off with BackendError(TIMEOUT), unless `set_idle_limit` of the
        reply is called before. Whatever goes wrong is raised by the reply's methods, a bad URL at once.
        """
        return self._start(_POST, url, body, fields, within, rest=rest)

    def start_change(self, url: str, body: bytes, *, delete: bool, fields: bytes = b"", within: float) -> UpstreamReply:
        """As `start`, by POST or DELETE, for what is not to be sent a second time: over a connection that is new."""
        return self._start(_DELETE if delete else _POST, url, body, fields, within, afresh=True)

    async def aclose(self) -> None:
        """Close every connection, those in use included."""
        self.closed = True
        for timer in (self._sweeper, self._clock):
            if timer is not None:
                timer.cancel()
        for origin in self._origins.values():
            origin.close()
        for reply in tuple(self.limited):
            reply.close()
        for connection in tuple(self.connections):
            connection.abort()
        if self.connections:
            await self._all_gone.wait()

    async def _whole(self, reply: UpstreamReply) -> Reply:
        try:
            body = await reply.whole()
        finally:
            reply.close()
        return Reply(status=reply.status, headers=reply.headers, body=body)

    def _start(
        self,
        method: bytes,
        url: str,
        body: bytes,
        fields: bytes,
        within: float,
        *,
        rest: memoryview | None = None,
        afresh: bool = False,
    ) -> UpstreamReply:
        if self.closed:
            raise BackendError(FailureKind.REFUSED, "the client is closed")
        place = self._places.get(url) or self._find(url)
        if method is _GET:
            request: Request = b"%b%b\r\n" % (place.get, fields)
        else:
            request = request_of((place.post if method is _POST else place.delete) + fields, body, rest)
        reply = UpstreamReply(self.loop, place.origin, request)
        reply.set_deadline(within)
        self.limited.add(reply)
        if self._clock is None:
            self._clock = self.loop.call_later(CLOCK_SECONDS, self._look_at_limits)
        if afresh:
            place.origin.send_afresh(reply)
        else:
            place.origin.send(reply)
        return reply

    def _look_at_limits(self) -> None:
        now = self.loop.time()
        for reply in tuple(self.limited):
            reply.check(now)
        self._clock = self.loop.call_later(CLOCK_SECONDS, self._look_at_limits) if self.limited else None

    async def connect(self, address: _Address, origin: _Origin) -> Connection:
        """Return a new connection; raises BackendError where there is none in time."""
        limit = self._connect_seconds
        try:
            async with asyncio.timeout(limit):
                connection = await self.names.reach(address.host, lambda host: self._connect_to(host, address, origin))
        except TimeoutError:
            raise BackendError(FailureKind.TIMEOUT, f"no connection within {limit:g} s") from None
        except OSError as error:
            raise BackendError(FailureKind.REFUSED, _plain(error)) from None
        self.connections.add(connection)
        return connection

    async def _connect_to(self, host: str, address: _Address, origin: _Origin) -> Connection:
        """Connect to one of the addresses of a host."""
        _, protocol = await self.loop.create_connection(
            lambda: cast("asyncio.Protocol", Connection(self._outbox, origin.put, origin.forget)),
            host,
            address.port,
            ssl=self._tls() if address.tls else None,
            server_hostname=address.host if address.tls else None,
        )
        return cast("Connection", protocol)

    def _tls(self) -> ssl.SSLContext:
        if self._verify is None:
            self._verify = ssl.create_default_context()
        return self._verify

    def _find(self, url: str) -> _Place:
        address, head = _take_apart(url)
        origin = self._origins.get(address)
        if origin is None:
            origin = self._origins[address] = _Origin(self, address)
        if len(self._places) >= _KNOWN_URLS:
            self._places.clear()
        of_json = head + b"content-type: application/json\r\n"
        place = self._places[url] = _Place(origin, b"GET" + head, b"POST" + of_json, b"DELETE" + of_json)
        return place

    def keep(self, connection: Connection) -> None:
        """Note since when a connection waits, and see to it that it does not do so for ever."""
        connection.idle_since = self.loop.time()
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(KEPT_SECONDS / 2, self._sweep)

    def forget(self, connection: Connection) -> None:
        """Take note that a connection is gone."""
        self.connections.discard(connection)
        if self.closed and not self.connections:
            self._all_gone.set()

    def _sweep(self) -> None:
        self._sweeper = None
        too_old = self.loop.time() - KEPT_SECONDS
        waiting = False
        for origin in self._origins.values():
            while origin.idle and origin.idle[0].idle_since <= too_old:
                origin.idle.popleft().abort()
            if origin.idle:
                waiting = True
        if waiting:
            self._sweeper = self.loop.call_later(KEPT_SECONDS / 2, self._sweep)
