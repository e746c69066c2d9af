"""HTTP servers on raw sockets, for tests: they do what a test tells them, the forbidden included."""

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs


class Heard:
    """One request that a stand-in heard, and the means to answer it in any way."""

    def __init__(
        self,
        request_line: str,
        headers: dict[str, str],
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.method, self.path, _ = request_line.split(" ", 2)
        self.headers = headers
        self.body = body
        self._reader = reader
        self._writer = writer
        self.left_at: float | None = None

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    async def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(
        self, body: bytes, *, status: int = 200, content_type: str = "application/json", **headers: str
    ) -> None:
        """Send a whole answer."""
        await self.raw(_head(status, content_type, {"content-length": str(len(body)), **headers}) + body)

    async def start(self, content_type: str) -> None:
        """Open a chunked answer."""
        await self.raw(_head(200, content_type, {"transfer-encoding": "chunked"}))

    async def chunk(self, data: bytes) -> None:
        """Send one chunk."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """End a chunked answer properly."""
        await self.raw(b"0\r\n\r\n")

    def reset(self) -> None:
        """Break the connection off with a reset."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        """Close the connection, chunked answer or not."""
        self._writer.close()

    async def wait_until_left(self) -> None:
        """Wait until the other side has closed the connection, and note when."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.left_at = time.monotonic()


# What engines answer when the proxy asks whether they live; nobody counts it.
_LIFE = {"/api/version": b'{"version": "0.11.4"}', "/api/ps": b'{"models": []}', "/health": b"{}", "/v1/models": b"{}"}

Handler = Callable[[Heard], Awaitable[None]]


def _head(status: int, content_type: str, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class StandIn:
    """A server in a thread of its own, whose answers are a handler's. A context manager."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.heard: list[Heard] = []
        self.open_connections = 0
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "StandIn":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(5)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.open_connections += 1
        try:
            while not writer.is_closing():
                heard = await self._hear(reader, writer)
                if heard.method == "GET" and heard.path in _LIFE:
                    await heard.answer(_LIFE[heard.path])
                    continue
                self.heard.append(heard)
                await self.handler(heard)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            self.open_connections -= 1
            writer.close()

    @staticmethod
    async def _hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Heard:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (field.split(":", 1) for field in rest)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Heard(line, headers, body, reader, writer)


class Registry(StandIn):
    """The part of the Admin API that a router relies on, over a list of rows that tests write."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__(self._handle)
        self.version = 1
        self.rows = [
            {
                "id": number,
                "enabled": True,
                "max_tokens": 64,
                "temperature_default": 0.7,
                "timeout_seconds": 10,
                "priority": 0,
                "weight": 1,
                "description": None,
                "created_at": "2026-01-01T00:00:00Z",
                "updated_at": "2026-01-01T00:00:00Z",
                "avg_tokens_per_sec": None,
                "avg_latency_ms": None,
                "total_requests": 0,
                "total_errors": 0,
                **row,
            }
            for number, row in enumerate(rows, 1)
        ]
        self.figures: list[dict[str, Any]] = []

    async def _handle(self, heard: Heard) -> None:
        path, _, query = heard.path.partition("?")
        if path == "/api/llm-backends/changes":
            asked = parse_qs(query)
            if int(asked["after"][0]) >= self.version:
                await asyncio.sleep(float(asked["wait"][0]))
            await heard.answer(json.dumps({"version": self.version}).encode())
        elif path == "/api/llm-backends/figures":
            self.figures.append(heard.json)
            await heard.raw(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif path == "/api/llm-backends":
            await heard.answer(json.dumps(self.rows).encode(), x_registry_version=str(self.version))
        else:
            await heard.answer(b'{"title": "Not found", "status": 404}', status=404)


def backend(model: str, engine: str, url: str, **more: Any) -> dict[str, Any]:
    """Return a row of the registry."""
    return {"model_name": model, "backend_type": engine, "endpoint_url": url, **more}
