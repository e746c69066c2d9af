"""The metrics of the Admin API: its requests, its connections to the database, and what that holds.

They need no token, so reading them costs the database one query at most every second, however often they are asked for.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import cast

from fastapi import APIRouter, Request, Response
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from athena.admin.health import ANSWER_SECONDS
from athena.db.session import POOL_MOST, Database
from athena.observability.http_metrics import HttpMetrics
from athena.observability.service_metrics import CONTENT_TYPE, ServiceMetrics

HOLD_SECONDS = 1.0  # that what the database said is told again without asking it

# One row for each figure: which one, its label, its value.
_READ = text("""
    SELECT 'revision', version_num, 1.0::float8 FROM alembic_version
    UNION ALL
    SELECT 'backends', enabled::text, count(*)::float8 FROM llm_backends GROUP BY enabled
    UNION ALL
    SELECT 'report_age', name, extract(epoch FROM now() - received_at)::float8 FROM host_reports
""")

_Figure = tuple[str, str, float]


class AdminMetrics(ServiceMetrics):
    """The metrics of one process of the Admin API."""

    def __init__(self, database: Database) -> None:
        super().__init__("admin")
        self.http = HttpMetrics()
        self._database = database
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._reachable = False
        self._figures: Sequence[_Figure] = ()
        self.add(self.http.duration)
        self.gauge(
            "athena_database_reachable", "Whether the database answered just now.", lambda: float(self._reachable)
        )
        self.gauges(
            "athena_database_connections",
            "Connections to the database: in use for a request, or idle in the pool.",
            ("state",),
            self._connections,
        )
        self.gauge("athena_database_connections_limit", "Connections that the pool may open.", lambda: float(POOL_MOST))
        self.gauges(
            "athena_schema_revision_info",
            "1; the label says the revision of the database's schema.",
            ("revision",),
            lambda: self._found("revision"),
        )
        self.gauges(
            "athena_backends", "Backends in the registry, by whether they are enabled.", ("enabled",), self._backends
        )
        self.gauges(
            "athena_host_report_age_seconds",
            "Time since the agent of a host reported.",
            ("host",),
            lambda: self._found("report_age"),
        )

    async def read(self) -> bytes:
        """Return all metrics in Prometheus' text format; without what the database holds while that is away."""
        async with self._reading:
            if time.monotonic() - self._read_at >= HOLD_SECONDS:
                self._figures = await self._ask()
                self._read_at = time.monotonic()
        return self.exposition()

    async def _ask(self) -> Sequence[_Figure]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._database.engine.connect() as connection:
                rows = await connection.execute(_READ)
                figures = [(str(what), str(label), float(value)) for what, label, value in rows]
        except ProgrammingError:  # it answers, but has not all of the tables
            self._reachable = True
            return ()
        except (DBAPIError, PoolTimeoutError, TimeoutError, OSError):
            self._reachable = False
            return ()
        self._reachable = True
        return figures

    def _found(self, wanted: str) -> Iterator[tuple[tuple[str, ...], float]]:
        return (((label,), value) for what, label, value in self._figures if what == wanted)

    def _backends(self) -> Iterator[tuple[tuple[str, ...], float]]:
        if self._figures:  # a registry without any backend has 0, one that cannot be read none of both
            yield from {("false",): 0.0, ("true",): 0.0, **dict(self._found("backends"))}.items()

    def _connections(self) -> Iterator[tuple[tuple[str, ...], float]]:
        pool = cast("QueuePool", self._database.engine.pool)
        yield ("idle",), float(pool.checkedin())
        yield ("used",), float(pool.checkedout())


router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response)
async def show_metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format. Needs no token."""
    metrics: AdminMetrics = request.app.state.metrics
    return Response(await metrics.read(), media_type=CONTENT_TYPE)
