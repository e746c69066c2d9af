"""The part of the Admin API that a router relies on, over a list of rows that a test writes; in a thread of its own."""

import json
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "a-token-of-these-tests"
LONGEST_WAIT = 2.0  # seconds of one long poll, so that a stop need not wait


UNSAID: dict[str, Any] = {
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
}
"""What a row has where a test says nothing."""


def backend(number: int, model: str, engine: str, url: str, **more: Any) -> dict[str, Any]:
    """Return a row."""
    return {
        "id": number,
        "model_name": model,
        "backend_type": engine,
        "endpoint_url": url,
        **UNSAID,
        **more,
    }


class Registry:
    """An Admin API. `status` other than 200 is what it answers to everything (503: its database is gone).

    `keys` are the API keys of callers, as a proxy is told of them; None: from before there were any.
    `stop` and `start` take it away and bring it back at the same address, with what it knew.
    """

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.status = 200
        self.batches: dict[str, list[dict[str, Any]]] = {}
        self.keys: list[dict[str, Any]] | None = None
        self._rows = list(rows)
        self._version = 1
        self._changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen."""
        registry = self

        class Handler(_Handler):
            def answer(self) -> None:
                registry.answer(self)

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be gone; no harm if it is."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        with self._changed:
            self._changed.notify_all()
        server.server_close()

    def put(self, *rows: dict[str, Any]) -> None:
        """Replace all rows."""
        with self._changed:
            self._rows = list(rows)
            self._version += 1
            self._changed.notify_all()

    def figures(self) -> dict[int, dict[str, float]]:
        """Return the sums that were reported, by backend; a batch counts once, however often it came."""
        sums: dict[int, dict[str, float]] = {}
        for batch in self.batches.values():
            for figure in batch:
                total = sums.setdefault(figure["backend_id"], {"requests": 0, "errors": 0})  # what is not told is 0
                for name, value in figure.items():
                    if name != "backend_id":
                        total[name] = total.get(name, 0) + value
        return sums

    def answer(self, request: "_Handler") -> None:
        """Answer one request."""
        url = urlsplit(request.path)
        if self.status != 200:
            request.say(self.status, {"title": "Unavailable", "status": self.status})
        elif url.path == "/api/llm-backends/changes":
            query = parse_qs(url.query)
            request.say(200, {"version": self._wait(int(query["after"][0]), float(query["wait"][0]))})
        elif url.path.startswith("/api/llm-backends/model/"):
            model = unquote(url.path.removeprefix("/api/llm-backends/model/"))
            route = sorted((row for row in self._rows if row["model_name"] == model), key=lambda row: row["priority"])
            found = {**route[0], "route": route, "version": self._version} if route else {"title": "Not found"}
            request.say(200 if route else 404, found)
        elif request.headers["authorization"] != f"Bearer {TOKEN}":
            request.say(401, {"title": "Unauthorized"})
        elif url.path == "/api/llm-backends/figures":
            batch = json.loads(request.body)
            self.batches.setdefault(batch["batch_id"], batch["figures"])
            request.say(204, None)
        elif url.path == "/api/api-keys/digests" and self.keys is not None:
            request.say(200, self.keys, ("x-registry-version", str(self._version)))
        elif url.path == "/api/api-keys/used" and self.keys is not None:
            request.say(204, None)
        elif url.path == "/api/llm-backends":
            request.say(200, self._rows, ("x-registry-version", str(self._version)))
        else:
            request.say(404, {"title": "Not found"})

    def _wait(self, after: int, seconds: float) -> int:
        """Wait for a change, but end with the server."""
        server, deadline = self._server, time.monotonic() + min(seconds, LONGEST_WAIT)
        with self._changed:
            while self._version <= after and self._server is server and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._version

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    """A server whose end is the end of its connections too."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, *arguments: Any) -> None:
        self.connections: list[socket.socket] = []
        super().__init__(*arguments)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def server_close(self) -> None:
        super().server_close()
        for connection in self.connections:
            with suppress(OSError):  # it is closed
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a proxy that is killed leaves its connections."""


class _Handler(BaseHTTPRequestHandler):
    """One request after the other on a connection."""

    protocol_version = "HTTP/1.1"
    body = b""

    def answer(self) -> None:
        """Answer the request that has been read."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["content-length"]))
        self.answer()

    def say(self, status: int, value: object, *headers: tuple[str, str]) -> None:
        """Send an answer; a connection of a server that has stopped is closed after it."""
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
        for header in headers:
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
