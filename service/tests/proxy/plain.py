"""An application that does what a test's path says, for tests of the server alone; and callers on raw sockets."""

import asyncio
import socket
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Self

from athena.errors import AthenaError
from athena.proxy.server.exchange import Exchange
from athena.proxy.server.limits import Limits
from athena.proxy.server.listener import Server
from tests.support.prompt_server import Serving, serving_prompts

TEXT = b"content-type: text/plain\r\n"
PIECE = b"p" * 16384


class Plain:
    """`/now` and `/echo` answer at once, `/wait` when it is let go; `/stream`, `/numbers?N` and, without end, `/flood`
    do so in pieces.
    """

    def __init__(self) -> None:
        self.served: list[Exchange] = []
        self.refused: list[AthenaError] = []
        self.cancelled: list[str] = []
        self.written = 0
        self._let_go = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def served_by(self, server: Server) -> None:
        self.server = server

    def serve(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        self.served.append(exchange)
        match exchange.path:
            case "/wait":
                return self._wait(exchange)
            case "/stream":
                return self._stream(exchange)
            case "/numbers":
                return self._numbers(exchange, int(exchange.query))
            case "/flood":
                return self._flood(exchange)
            case "/large":
                exchange.respond(200, TEXT, b"l" * int(exchange.query))
            case "/fail":
                return self._fail()
            case _:
                exchange.respond(200, TEXT, exchange.body or exchange.path.encode())
        return None

    def admit(self, exchange: Exchange) -> AthenaError | None:
        return None

    def refuse(self, exchange: Exchange, error: AthenaError) -> None:
        self.refused.append(error)
        again = b"retry-after: %d\r\n" % error.retry_after if error.retry_after is not None else b""
        exchange.respond(error.status, TEXT + again, error.detail.encode())

    def let_go(self, serving: Serving) -> None:
        """Let every `/wait` be answered."""
        serving.loop.call_soon_threadsafe(self._let_go.set)

    async def _wait(self, exchange: Exchange) -> None:
        try:
            await self._let_go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(exchange.gone)
            raise
        exchange.respond(200, TEXT, b"waited")

    async def _stream(self, exchange: Exchange) -> None:
        exchange.begin(200, TEXT)
        for number in range(3):
            exchange.write(b"piece %d," % number)
            await asyncio.sleep(0)
        exchange.end()

    async def _numbers(self, exchange: Exchange, most: int) -> None:
        """Write numbers as fast as possible, each a piece."""
        exchange.begin(200, TEXT)
        for number in range(most):
            exchange.write(b"%d," % number)
            await asyncio.sleep(0)
        exchange.end()

    async def _flood(self, exchange: Exchange) -> None:
        """Write without end, but no more while the caller is behind; 2 GiB go past a caller that reads."""
        reads = asyncio.Event()
        reads.set()
        exchange.begin(200, TEXT)
        exchange.regulate(reads.clear, reads.set)
        try:
            while self.written < 1 << 31:
                await reads.wait()
                exchange.write(PIECE)
                self.written += len(PIECE)
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(exchange.gone)
            raise

    @staticmethod
    async def _fail() -> None:
        raise ValueError("a mistake of the application")


class Line:
    """A caller's connection, byte for byte."""

    def __init__(self, port: int, sent: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.send(sent)

    def send(self, data: bytes) -> None:
        """Send these bytes."""
        self.socket.sendall(data)

    def receive(self, ending: bytes) -> bytes:
        """Return what comes up to `ending`."""
        received = b""
        while not received.endswith(ending):
            data = self.socket.recv(65536)
            assert data, received
            received += data
        return received

    def rest(self) -> bytes:
        """Return what comes until the server closes."""
        received = b""
        while data := self.socket.recv(65536):
            received += data
        return received

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def plain_server(limits: Limits | None = None) -> Iterator[tuple[Plain, Serving]]:
    """Run a server with that application."""
    application = Plain()
    with serving_prompts(application, limits or Limits()) as serving:
        yield application, serving


def get(path: str, *headers: str, version: str = "1.1") -> bytes:
    """Return a request without a body."""
    return "\r\n".join([f"GET {path} HTTP/{version}", "host: x", *headers, "", ""]).encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Return a request with a body."""
    return "\r\n".join([f"POST {path} HTTP/1.1", f"content-length: {len(body)}", *headers, "", ""]).encode() + body


def until(condition: Any, seconds: float = 5) -> None:
    """Wait for what happens in the server's thread."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
