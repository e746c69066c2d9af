"""The Admin API as an ASGI application."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import FrameType

import structlog
from fastapi import FastAPI

from athena import problems
from athena.admin import api_keys, endpoints, health, hosts, metrics, why
from athena.admin.changes import Changes
from athena.admin.metrics import AdminMetrics
from athena.admin.why import ProxyQuestion
from athena.auth.bearer import Authenticator
from athena.db import migrate
from athena.db.session import Database
from athena.observability import tracing
from athena.observability.http_metrics import MeasuredRequests
from athena.observability.identity import RequestIdentity
from athena.observability.logged_requests import LoggedRequests
from athena.observability.traced_requests import NOT_FASTAPIS, TracedRequests
from athena.settings import AdminSettings

log = structlog.get_logger()


def create_app(settings: AdminSettings) -> FastAPI:
    """Return the application. It starts, and stays up, while the database is away, and goes on when that is back."""
    url = settings.database_url.get_secret_value()
    database = Database(url, application_name="athena-admin")
    changes = Changes(url)
    static_token = settings.admin_api_token.get_secret_value() if settings.admin_api_token else None
    question = ProxyQuestion(settings.proxy_url, static_token)
    if settings.admin_api_token is None and settings.jwt_secret is None:
        log.warning("nobody_can_authenticate", reason="neither ADMIN_API_TOKEN nor JWT_SECRET is set")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        listener = asyncio.create_task(changes.listen(), name="athena changes")
        _end_waiting_on_signals(changes)
        try:
            async with tracing.sending():
                yield
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener
            await question.aclose()
            await database.close()

    app = FastAPI(
        title="Athena Admin API",
        summary="The registry of LLM backends, the API keys of callers, and what the hosts of engines report.",
        version="1",
        lifespan=lifespan,
        telemetry=NOT_FASTAPIS,
        docs_url=None,
        redoc_url=None,
    )
    app.state.database = database
    app.state.changes = changes
    app.state.proxy_question = question
    app.state.metrics = AdminMetrics(database)
    app.state.authenticator = Authenticator(
        database,
        static_token=static_token,
        jwt_secret=settings.jwt_secret.get_secret_value() if settings.jwt_secret else None,
    )
    app.state.schema_check = health.SchemaCheck(database, head=migrate.head(), known=migrate.revisions())
    problems.install(app)
    app.add_middleware(LoggedRequests)
    if (traces := tracing.traces()) is not None:
        app.add_middleware(TracedRequests, traces=traces)
    app.add_middleware(RequestIdentity)
    app.add_middleware(MeasuredRequests, metrics=app.state.metrics.http)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(endpoints.router)
    app.include_router(why.router)
    app.include_router(hosts.router)
    app.include_router(api_keys.router)
    return app


def _end_waiting_on_signals(changes: Changes) -> None:
    """Let requests that wait for news go as soon as the process is asked to end.

    A server ends when its requests have; those that wait for news would hold it up for the better part of a minute.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        server = signal.getsignal(number)

        def end(number: int, frame: FrameType | None, server: object = server) -> None:
            loop.call_soon_threadsafe(changes.close)
            if callable(server):
                server(number, frame)

        signal.signal(number, end)
