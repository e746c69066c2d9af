"""The model proxy: what any LLM client already speaks, OpenAI's API and Ollama's, in front of the router.

A bare ASGI application: between a request and its reply stands no framework.
"""

import gc
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from importlib.resources import files

import msgspec
import structlog

from athena.observability.metrics import CONTENT_TYPE, ProxyMetrics
from athena.proxy.forward import Forwarder
from athena.proxy.health import health
from athena.proxy.http import (
    TEXT,
    Answer,
    InternalError,
    Limits,
    Receive,
    Scope,
    Send,
    dialect_of,
    error_answer,
    json_answer,
    method_not_allowed,
    not_found,
    request_id,
    send_answer,
)
from athena.proxy.models import Models
from athena.router.services import RouterServices
from athena.router.types import Dialect, Operation
from athena.settings import RouterSettings

log = structlog.get_logger()

Page = Callable[[], Awaitable[Answer]]

OLLAMA_API_VERSION = "0.11.4"
"""The Ollama whose API is spoken here; clients read it to decide what they may send."""

_MODEL = "/v1/models/"
_READ = ("GET", "HEAD")
_PROMPTS: Mapping[str, tuple[Dialect, Operation]] = {
    "/v1/chat/completions": (Dialect.OPENAI, Operation.CHAT),
    "/v1/completions": (Dialect.OPENAI, Operation.GENERATE),
    "/api/chat": (Dialect.OLLAMA, Operation.CHAT),
    "/api/generate": (Dialect.OLLAMA, Operation.GENERATE),
}


class Proxy:
    """The application. It serves from the ASGI lifespan's start-up to its shutdown."""

    def __init__(self, settings: RouterSettings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._metrics = ProxyMetrics()
        self._forwarder: Forwarder | None = None
        self._models: Models | None = None
        self._pages: Mapping[str, Page] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            prompt = _PROMPTS.get(scope["path"])
            if prompt is not None and scope["method"] == "POST" and self._forwarder is not None:
                await self._forwarder.serve(*prompt, scope, receive, send)
            else:
                await self._show(scope, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000, "reason": "There are no web sockets here."})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            services = RouterServices(self._settings)
            await services.__aenter__()
        except Exception as error:
            log.exception("startup_failed")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        thresholds = gc.get_threshold()
        try:
            self._start(services)
            # What lives as long as the process need not be looked at again and again: 5 to 10 % of the time otherwise.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 20)
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            gc.set_threshold(*thresholds)
            gc.unfreeze()
            await services.__aexit__(None, None, None)
        await send({"type": "lifespan.shutdown.complete"})

    def _start(self, services: RouterServices) -> None:
        configuration = services.configuration
        models = Models(configuration, services.upstream, self._settings.ollama_url)
        self._metrics.gauge(
            "athena_configuration_version",
            "Version of the registry that requests are routed by.",
            lambda: configuration.snapshot.version,
        )
        self._metrics.gauge(
            "athena_configuration_reachable",
            "Whether the last contact with the Admin API succeeded.",
            lambda: configuration.reachable,
        )
        self._models = models
        self._forwarder = Forwarder(services.dispatcher, configuration, self._metrics, self._limits)
        description = Answer(body=_description())
        alive = json_answer({"status": "alive"})
        running = Answer(body=b"Athena is running", content_type=TEXT)
        ollama_version = json_answer({"version": OLLAMA_API_VERSION})

        async def metrics() -> Answer:
            return Answer(body=self._metrics.exposition(), content_type=CONTENT_TYPE.encode())

        self._pages = {
            "/": _constant(running),
            "/api/tags": models.tags,
            "/api/version": _constant(ollama_version),
            "/health": lambda: health(configuration, models),
            "/livez": _constant(alive),
            "/metrics": metrics,
            "/openapi.json": _constant(description),
            "/v1/models": models.list,
        }

    async def _show(self, scope: Scope, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        try:
            answer = await self._page(path, method)
        except Exception:
            log.exception("unexpected_error", method=method, path=path)
            error = InternalError("The proxy failed on this request; its log has the cause.")
            answer = error_answer(dialect_of(path), error)
        await send_answer(send, answer, ((b"x-request-id", request_id(scope)),))

    async def _page(self, path: str, method: str) -> Answer:
        if path in _PROMPTS:
            return method_not_allowed(path, method, ("POST",))
        page = self._pages.get(path)
        if page is None and not (path.startswith(_MODEL) and path != _MODEL):
            return not_found(path)
        if method not in _READ:
            return method_not_allowed(path, method, _READ)
        if page is not None:
            return await page()
        if self._models is None:
            return not_found(path)
        return await self._models.show(path.removeprefix(_MODEL))


def create_app(settings: RouterSettings, *, limits: Limits | None = None) -> Proxy:
    """Return the proxy as an ASGI application; its parts are made when the server starts it."""
    return Proxy(settings, limits or Limits())


def _constant(answer: Answer) -> Page:
    async def page() -> Answer:
        return answer

    return page


def _description() -> bytes:
    """Return the OpenAPI description with the version of the installed package."""
    description = msgspec.json.decode(files("athena.proxy").joinpath("openapi.json").read_bytes())
    description["info"]["version"] = version("athena-llm-backend")
    return msgspec.json.encode(description)
