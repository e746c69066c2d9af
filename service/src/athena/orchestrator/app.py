"""The orchestrator's HTTP application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from athena import __version__, problems
from athena.errors import AthenaError
from athena.observability import tracing
from athena.observability.http_metrics import MeasuredRequests
from athena.observability.identity import RequestIdentity
from athena.observability.service_metrics import CONTENT_TYPE
from athena.observability.traced_requests import NOT_FASTAPIS, TracedRequests
from athena.orchestrator import intents
from athena.orchestrator.conversations import Conversations, MemoryConversations, RedisConversations
from athena.orchestrator.metrics import OrchestratorMetrics
from athena.orchestrator.query import Answer, Orchestrator, Query
from athena.router.services import RouterServices
from athena.settings import OrchestratorSettings

REGISTRY_SECONDS = 2.0  # that a start waits for the registry, so that the first query finds its models


class CallerLeftError(AthenaError):
    """Nobody waits for the answer any more; the status is for the logs of what stands in between."""

    status = 499
    title = "Client closed request"
    code = "caller_left"


class Health(BaseModel):
    """`degraded` means that queries are answered, but with less than was configured."""

    status: str
    components: dict[str, str]


def create_app(settings: OrchestratorSettings) -> FastAPI:
    """Return the application; raises IntentTableError where the table of intents does not hold."""
    table = intents.load(settings.orchestrator_intents_file)
    metrics = OrchestratorMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        conversations: Conversations = (
            RedisConversations(settings.redis_url, table.conversations)
            if settings.redis_url is not None
            else MemoryConversations(table.conversations)
        )
        try:
            async with tracing.sending(), RouterServices(settings, metrics=metrics.router) as services:
                await services.configuration.wait_for_first_contact(REGISTRY_SECONDS)
                app.state.services = services
                app.state.conversations = conversations
                app.state.orchestrator = Orchestrator(table, services, conversations, metrics)
                yield
        finally:
            await conversations.aclose()

    app = FastAPI(
        title="Athena orchestrator",
        version=__version__,
        description="Finds out what a query is about, and has the model answer it that is best at that.",
        lifespan=lifespan,
        telemetry=NOT_FASTAPIS,
    )
    problems.install(app)
    if (traces := tracing.traces()) is not None:
        app.add_middleware(TracedRequests, traces=traces)
    app.add_middleware(RequestIdentity)
    app.add_middleware(MeasuredRequests, metrics=metrics.http)

    @app.get("/health", tags=["health"])
    async def health(request: Request) -> Health:
        """Return how the parts are that queries rely on."""
        services: RouterServices = request.app.state.services
        store: Conversations = request.app.state.conversations
        components = {
            "llm_router": "healthy" if services.configuration.reachable else "unavailable",
            "redis": await store.state(),
        }
        whole = all(state in {"healthy", "memory"} for state in components.values())
        return Health(status="healthy" if whole else "degraded", components=components)

    @app.get("/livez", tags=["health"])
    async def livez() -> dict[str, str]:
        """Return that the process answers."""
        return {"status": "alive"}

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def show_metrics(request: Request) -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(await metrics.read(request.app.state.conversations), media_type=CONTENT_TYPE)

    @app.post("/query", tags=["query"], responses=problems.responses(400, 422, 503))
    async def query(request: Request, body: Query) -> Answer:
        """Answer a query, and say which models and backends did it and how long each step took."""
        orchestrator: Orchestrator = request.app.state.orchestrator
        answering = asyncio.create_task(orchestrator.answer(body))
        leaving = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise CallerLeftError("the caller left before there was an answer")
            return answering.result()
        finally:
            # The engine is not to work for a caller who is gone; closing its stream stops it.
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    return app


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
