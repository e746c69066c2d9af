"""HTTP/1.1 servers on raw sockets, for tests: they do what a handler tells them, the forbidden included."""

import asyncio
import json
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar


class Request:
    """One request, the `number`-th on its connection, and the means to answer it in any way."""

    def __init__(
        self, head: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        line, *fields = head.split("\r\n")
        self.method, self.path, _ = line.split(" ", 2)
        self.headers = {name.lower(): value.strip() for name, value in (field.split(":", 1) for field in fields)}
        self.body = body
        self.number = number
        self.reader = reader
        self.writer = writer
        self.left_at: float | None = None

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        """Send one chunk."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def reset(self) -> None:
        """Break the connection off with a reset."""
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """Close the connection, whatever was promised."""
        self.writer.close()

    async def until_left(self) -> None:
        """Wait until the other side has closed the connection, and note when (time.monotonic)."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.left_at = time.monotonic()


R = TypeVar("R", bound=Request)


class Connections(Generic[R]):
    """Listens in the running event loop, and hands each request to a handler; `request` is the class of requests."""

    def __init__(self, request: type[R], handle: Callable[[R], Awaitable[None]]) -> None:
        self.made = 0
        self.open = 0
        self._request = request
        self._handle = handle
        self.tasks: set[asyncio.Task[None]] = set()  # one for each open connection
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        """Listen on 127.0.0.1, on a port that is free or on the given one; returns it."""
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", port, limit=1 << 24, backlog=2048, ssl=tls
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is None:
            return
        # asyncio forgets a connection that it has accepted where the server is closed before it has made its transport.
        loop = asyncio.get_running_loop()
        for listening in self._server.sockets:
            loop.remove_reader(listening.fileno())
        await _turns()  # so that each connection that was accepted has its task, which closes it
        self._server.close()
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._server.wait_closed()
        await _turns()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.made += 1
        self.open += 1
        number = 0
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1")
                number += 1
                request = self._request(head, b"", reader, writer, number)
                request.body = await reader.readexactly(int(request.headers.get("content-length", "0")))
                await self._handle(request)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()  # what was not read yet would keep it open
        finally:
            self.open -= 1
            self.tasks.discard(task)
            writer.close()


async def _turns() -> None:
    """Let the event loop go round: a connection comes to be, and to its end, in several of its turns."""
    for _ in range(10):
        await asyncio.sleep(0)
