"""The HTTP/1.1 client that speaks to the engines: keeps connections, and gives every failure its kind."""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec

from athena.router.connection import Connection, UpstreamReply
from athena.router.errors import BackendError, FailureKind

CONNECT_SECONDS = 2.0  # a host whose packets are dropped costs an attempt this much
KEPT_PER_ORIGIN = 256  # connections that may wait for their next request
KEPT_SECONDS = 30.0  # how long they may
BODY_LIMIT = 64 * 1024 * 1024  # bytes of a whole reply


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole small reply. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Address(msgspec.Struct, frozen=True):
    """An URL taken apart: where to connect to, and the start of a request's head."""

    host: str
    port: int
    tls: bool
    target: bytes


@lru_cache(maxsize=1024)
def _address(url: str) -> _Address:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        authority = parts.netloc.rpartition("@")[2]
        target = f" {path} HTTP/1.1\r\nhost: {authority}\r\n".encode("ascii")
    except ValueError as error:
        raise BackendError(FailureKind.REFUSED, f"{url} is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise BackendError(FailureKind.REFUSED, f"{url} is not an http or https URL")
    tls = parts.scheme == "https"
    return _Address(host, port or (443 if tls else 80), tls, target)


def _plain(error: OSError) -> str:
    """Return what went wrong in words: the system's, without numbers and addresses where it has its own."""
    if isinstance(error, ConnectionRefusedError):
        return "Connection refused"
    return error.strerror or str(error)


class _Origin:
    """The connections to one address that wait for their next request, the most recently used at the right."""

    def __init__(self, client: "UpstreamClient", address: _Address) -> None:
        self.address = address
        self.idle: deque[Connection] = deque()
        self._client = client

    def take(self) -> Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if not connection.closing:
                return connection
        return None

    def put(self, connection: Connection) -> None:
        if self._client.closed:
            connection.abort()
            return
        self.idle.append(connection)
        self._client.keep(connection)
        if len(self.idle) > KEPT_PER_ORIGIN:
            self.idle.popleft().abort()

    def forget(self, connection: Connection) -> None:
        if connection in self.idle:
            self.idle.remove(connection)
        self._client.forget(connection)


class UpstreamClient:
    """One per event loop, made while it runs. Every failure is a BackendError with its kind.

    `verify` is the TLS context; without one the system's authorities are trusted.
    """

    def __init__(self, *, verify: ssl.SSLContext | None = None, connect_seconds: float = CONNECT_SECONDS) -> None:
        self.closed = False
        self.connections: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._verify = verify
        self._connect_seconds = connect_seconds
        self._origins: dict[tuple[str, int, bool], _Origin] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()

    async def get(self, url: str, *, headers: Mapping[str, str] | None = None, within: float = 5.0) -> Reply:
        """Return the whole answer to a GET, whatever its status; the whole of it has `within` seconds."""
        return await self._whole(b"GET", url, b"", headers, within)

    async def post(
        self, url: str, body: bytes, *, headers: Mapping[str, str] | None = None, within: float = 5.0
    ) -> Reply:
        """Return the whole answer to a POST of JSON, whatever its status; the whole of it has `within` seconds."""
        return await self._whole(b"POST", url, body, headers, within)

    async def open(
        self, url: str, body: bytes, *, headers: Mapping[str, str] | None = None, within: float
    ) -> UpstreamReply:
        """POST JSON and return the answer once its head is there.

        `within` seconds from now the answer breaks off with BackendError(TIMEOUT), unless `set_idle_limit` of the
        reply is called before. Cancelling closes the connection at once.
        """
        return await self._open(b"POST", url, body, headers, within)

    async def aclose(self) -> None:
        """Close every connection, those in use included."""
        self.closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self.connections):
            connection.abort()
        if self.connections:
            await self._all_gone.wait()

    async def _whole(
        self, method: bytes, url: str, body: bytes, headers: Mapping[str, str] | None, within: float
    ) -> Reply:
        reply = await self._open(method, url, body, headers, within)
        try:
            whole = await reply.read_all(BODY_LIMIT + 1)
        finally:
            reply.close()
        if len(whole) > BODY_LIMIT:
            raise BackendError(FailureKind.MALFORMED, f"a reply of more than {BODY_LIMIT} bytes")
        return Reply(status=reply.status, headers=reply.headers, body=whole)

    async def _open(
        self, method: bytes, url: str, body: bytes, headers: Mapping[str, str] | None, within: float
    ) -> UpstreamReply:
        if self.closed:
            raise BackendError(FailureKind.REFUSED, "the client is closed")
        address = _address(url)
        request = _render(method, address, body, headers)
        origin = self._origin(address)
        deadline = self._loop.time() + within
        kept = origin.take()
        if kept is not None:
            reply = kept.send(request)
            try:
                return await _headed(reply, within)
            except BackendError as error:
                if reply.begun or error.kind is FailureKind.TIMEOUT:
                    raise
            # The engine had closed the connection before it could see the request.
        fresh = await self._connect(origin, deadline - self._loop.time())
        return await _headed(fresh.send(request), deadline - self._loop.time())

    async def _connect(self, origin: _Origin, within: float) -> Connection:
        address = origin.address
        limit = min(self._connect_seconds, within)
        try:
            async with asyncio.timeout(limit):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._loop, origin.put, origin.forget),
                    address.host,
                    address.port,
                    ssl=self._tls() if address.tls else None,
                )
        except TimeoutError:
            raise BackendError(FailureKind.TIMEOUT, f"no connection within {limit:g} s") from None
        except socket.gaierror as error:
            raise BackendError(FailureKind.REFUSED, f"{address.host}: {_plain(error)}") from None
        except OSError as error:
            raise BackendError(FailureKind.REFUSED, _plain(error)) from None
        self.connections.add(connection)
        if self.closed:
            connection.abort()
        return connection

    def _tls(self) -> ssl.SSLContext:
        if self._verify is None:
            self._verify = ssl.create_default_context()
        return self._verify

    def _origin(self, address: _Address) -> _Origin:
        key = (address.host, address.port, address.tls)
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = _Origin(self, address)
        return origin

    def keep(self, connection: Connection) -> None:
        """Note since when a connection waits, and see to it that it does not do so for ever."""
        connection.idle_since = self._loop.time()
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(KEPT_SECONDS / 2, self._sweep)

    def forget(self, connection: Connection) -> None:
        """Take note that a connection is gone."""
        self.connections.discard(connection)
        if self.closed and not self.connections:
            self._all_gone.set()

    def _sweep(self) -> None:
        self._sweeper = None
        too_old = self._loop.time() - KEPT_SECONDS
        waiting = False
        for origin in self._origins.values():
            while origin.idle and origin.idle[0].idle_since <= too_old:
                origin.idle.popleft().abort()
            if origin.idle:
                waiting = True
        if waiting:
            self._sweeper = self._loop.call_later(KEPT_SECONDS / 2, self._sweep)


async def _headed(reply: UpstreamReply, within: float) -> UpstreamReply:
    """Return the reply once its head is there; a caller who does not wait for it takes the connection along."""
    reply.set_deadline(within)
    try:
        await reply.head()
    except BaseException:
        reply.close()
        raise
    return reply


def _render(method: bytes, address: _Address, body: bytes, headers: Mapping[str, str] | None) -> bytes:
    more = b""
    if headers:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
    if method == b"GET":
        return b"".join((method, address.target, more, b"\r\n"))
    length = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    return b"".join((method, address.target, length, more, b"\r\n", body))
