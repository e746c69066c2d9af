"""HTTP servers on raw sockets, for tests: they do what a test tells them, the forbidden included."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from tests.support.registry import UNSAID
from tests.support.standin import Connections, Request


class Heard(Request):
    """One request that a stand-in heard."""

    async def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.send(data)

    async def answer(
        self, body: bytes, *, status: int = 200, content_type: str = "application/json", **headers: str
    ) -> None:
        """Send a whole answer."""
        await self.raw(_head(status, content_type, {"content-length": str(len(body)), **headers}) + body)

    async def start(self, content_type: str) -> None:
        """Open a chunked answer."""
        await self.raw(_head(200, content_type, {"transfer-encoding": "chunked"}))

    async def end(self) -> None:
        """End a chunked answer properly."""
        await self.raw(b"0\r\n\r\n")

    async def wait_until_left(self) -> None:
        """Wait until the other side has closed the connection, and note when."""
        await self.until_left()


# What engines answer when the proxy asks whether they live; nobody counts it.
_LIFE = {"/api/version": b'{"version": "0.11.4"}', "/health": b"{}", "/v1/models": b"{}"}

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
        self.shows: dict[str, Any] | None = {}  # what Ollama says of each model; None: that it has none
        self.loaded: list[dict[str, Any]] = []  # the models that it has in memory
        self.loop = asyncio.new_event_loop()
        self.port = 0
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._connections = Connections(Heard, self._hear)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return self._connections.open

    def __enter__(self) -> "StandIn":
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._connections.start(), self.loop).result(5)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._connections.stop(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()

    async def _hear(self, heard: Heard) -> None:
        if heard.path == "/api/ps":
            await heard.answer(json.dumps({"models": self.loaded}).encode())
            return
        if heard.method == "GET" and heard.path in _LIFE:
            await heard.answer(_LIFE[heard.path])
            return
        if heard.path == "/api/show":
            await heard.answer(json.dumps(self.shows).encode(), status=200 if self.shows is not None else 404)
            return
        self.heard.append(heard)
        await self.handler(heard)


class Registry(StandIn):
    """The part of the Admin API that a router relies on, over a list of rows that tests write."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__(self._handle)
        self.version = 1
        self.rows = [
            {
                "id": number,
                **UNSAID,
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
        elif path == "/api/api-keys/digests":
            await heard.answer(b"[]", x_registry_version=str(self.version))
        else:
            await heard.answer(b'{"title": "Not found", "status": 404}', status=404)


def backend(model: str, engine: str, url: str, **more: Any) -> dict[str, Any]:
    """Return a row of the registry."""
    return {"model_name": model, "backend_type": engine, "endpoint_url": url, **more}
