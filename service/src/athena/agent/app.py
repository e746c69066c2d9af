"""The agent's HTTP application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from athena import __version__, problems
from athena.agent import commands
from athena.agent.configuration import AgentConfig
from athena.agent.host import this_host
from athena.agent.judging import State
from athena.agent.memory import Memory
from athena.agent.metrics import AgentMetrics
from athena.agent.reporting import Reporter
from athena.agent.status import Status, status
from athena.agent.watcher import Watcher
from athena.observability.identity import RequestIdentity
from athena.observability.service_metrics import CONTENT_TYPE
from athena.observability.traced_requests import NOT_FASTAPIS
from athena.settings import AgentSettings

HEALTHY, DEGRADED, UNHEALTHY = "healthy", "degraded", "unhealthy"


class Health(BaseModel):
    """How the agent itself is. `degraded`: it watches, but its reports are not taken."""

    status: str
    components: dict[str, str]


def create_app(settings: AgentSettings, config: AgentConfig) -> FastAPI:
    """Return the application that watches the engines of `config` while it runs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        metrics = AgentMetrics()
        reporter = Reporter(
            settings,
            host=config.host,
            every=config.report_seconds,
            report=lambda: status(watcher),
            reported=metrics.reported,
        )
        watcher = Watcher(
            config,
            host=this_host(commands.run, config.disk),
            run=commands.run,
            memory=Memory(settings.agent_state_file),
            noted=metrics.noted,
            restarted=metrics.restarted,
            replaced=metrics.replaced,
            changed=reporter.soon,
        )
        metrics.watch(watcher)
        app.state.watcher, app.state.reporter, app.state.metrics = watcher, reporter, metrics
        async with watcher, reporter:
            yield

    app = FastAPI(
        title="Athena agent",
        version=__version__,
        description="Watches the engines of one host, and has those started anew that hang.",
        lifespan=lifespan,
        telemetry=NOT_FASTAPIS,
    )
    problems.install(app)
    app.add_middleware(RequestIdentity)

    @app.get(
        "/health", tags=["health"], responses={503: {"model": Health, "description": "It does not watch any more"}}
    )
    async def health(request: Request, response: Response) -> Health:
        """Return how the agent itself is; its engines may be as they like."""
        watcher: Watcher = request.app.state.watcher
        reporter: Reporter = request.app.state.reporter
        watches = watcher.alive
        reports = reporter.state in (HEALTHY, "not configured", "unknown")
        response.status_code = 200 if watches else 503
        return Health(
            status=(HEALTHY if reports else DEGRADED) if watches else UNHEALTHY,
            components={
                "watcher": HEALTHY if watches else "stopped",
                "admin_api": reporter.state,
                "engines": HEALTHY if _are_well(watcher) else DEGRADED,
            },
        )

    @app.get("/livez", tags=["health"])
    async def livez() -> dict[str, str]:
        """Return that the process answers."""
        return {"status": "alive"}

    @app.get("/status", tags=["status"])
    async def show_status(request: Request) -> Status:
        """Return the engines, what their probes have shown, what was restarted, and the figures of the host."""
        return status(request.app.state.watcher)

    @app.get("/metrics", tags=["status"], response_class=Response)
    async def show_metrics(request: Request) -> Response:
        """Return the metrics in Prometheus' text format."""
        metrics: AgentMetrics = request.app.state.metrics
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    return app


def _are_well(watcher: Watcher) -> bool:
    return all(engine.state in (State.HEALTHY, State.BUSY, State.STARTING) for engine in watcher.engines)
