"""A registry for tests: one that is a Python object, and one that is an HTTP server on it as the Admin API is."""

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from athena.router.source import SourceError
from athena.router.types import Backend, BackendType, Edition, Snapshot
from tests.router.standin import Asked


class Registry:
    """A source of configuration that a test changes with `put`, and breaks with `away = True`."""

    def __init__(self, *rows: Backend, whole_table: bool = True) -> None:
        self.whole_table = whole_table
        self.version = 1
        self.database = "1.1"
        self.rows = list(rows)
        self.away = False
        self.delay = 0.0
        self.loads = 0
        self.look_ups: list[str] = []
        self._changed = asyncio.Condition()

    async def put(self, *rows: Backend, version: int | None = None) -> None:
        """Replace all rows."""
        async with self._changed:
            self.rows = list(rows)
            self.version = version if version is not None else self.version + 1
            self._changed.notify_all()

    async def _reach(self) -> None:
        await asyncio.sleep(self.delay)
        if self.away:
            raise SourceError("the registry is away")

    async def load(self) -> Snapshot:
        """Return all rows."""
        await self._reach()
        self.loads += 1
        routes: dict[str, tuple[Backend, ...]] = {}
        for row in self.rows:
            routes[row.model_name] = (*routes.get(row.model_name, ()), row)
        return Snapshot(version=self.version, routes=routes, complete=True)

    async def look_up(self, model: str) -> tuple[Backend, ...]:
        """Return the rows of a model."""
        self.look_ups.append(model)
        await self._reach()
        return tuple(row for row in self.rows if row.model_name == model)

    async def restore(self, *rows: Backend) -> None:
        """Replace the whole database by another one that is at the same version."""
        async with self._changed:
            self.rows = list(rows)
            self.database += "1"
            self._changed.notify_all()

    async def changed(self, known: Edition, wait: float) -> Edition:
        """Wait for a change."""
        await self._reach()
        try:
            async with asyncio.timeout(wait), self._changed:
                await self._changed.wait_for(
                    lambda: self.version > known.version or known.database not in ("", self.database) or self.away
                )
        except TimeoutError:
            pass
        await self._reach()
        return Edition(self.version, self.database)


class AdminApi:
    """The Admin API's part for services, over HTTP: the behaviour of a stand-in."""

    token = "a-token-of-these-tests"

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.batches: list[dict[str, Any]] = []
        self.figures_status = 204

    async def __call__(self, asked: Asked) -> None:
        """Answer one request."""
        url = urlsplit(asked.path)
        registry = self.registry
        if registry.away:
            asked.writer.close()
        elif url.path == "/api/llm-backends/changes":
            query = parse_qs(url.query)
            known = Edition(int(query["after"][0]), query.get("database", [""])[0])
            edition = await registry.changed(known, float(query["wait"][0]))
            await self._answer(asked, 200, msgspec.to_builtins(edition))
        elif url.path.startswith("/api/llm-backends/model/"):
            rows = await registry.look_up(unquote(url.path.removeprefix("/api/llm-backends/model/")))
            route = [_as_json(row) for row in sorted(rows, key=lambda row: (row.priority, row.id or 0))]
            found = route[0] | {"route": route, "version": registry.version} if route else {"title": "Not found"}
            await self._answer(asked, 200 if route else 404, found)
        elif asked.headers.get("authorization") != f"Bearer {self.token}":
            await self._answer(asked, 401, {"title": "Unauthorized"})
        elif url.path == "/api/llm-backends/figures":
            self.batches.append(asked.json)
            await self._answer(asked, self.figures_status, {})
        else:
            rows_ = [_as_json(row) for row in registry.rows]
            await self._answer(asked, 200, rows_, f"X-Registry-Version: {registry.version}\r\n")

    @staticmethod
    async def _answer(asked: Asked, status: int, value: Any, more: str = "") -> None:
        await asked.answer(status, b"" if status == 204 else json.dumps(value).encode(), more=more)


def _as_json(row: Backend) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(row)
    return fields | {
        "description": None,
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "avg_tokens_per_sec": None,
        "avg_latency_ms": None,
        "total_requests": 0,
        "total_errors": 0,
    }


def row(number: int, url: str, model: str = "m", engine: str = "ollama", **more: Any) -> Backend:
    """Return a row of the registry."""
    return Backend(id=number, model_name=model, backend_type=BackendType(engine), endpoint_url=url, **more)
