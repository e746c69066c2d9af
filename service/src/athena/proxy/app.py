"""The model proxy: what any LLM client already speaks, OpenAI's API and Ollama's, in front of the router."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Self

import msgspec
import structlog

from athena.auth.api_keys import KeyScope
from athena.errors import AthenaError, ForbiddenError
from athena.observability import tracing
from athena.observability.proxy_metrics import ProxyMetrics
from athena.observability.service_metrics import CONTENT_TYPE
from athena.observability.sharing import SharedMetrics
from athena.proxy.caller import Caller, scope_of
from athena.proxy.callers import Callers
from athena.proxy.forward import Forwarder
from athena.proxy.health import health
from athena.proxy.http import (
    TEXT,
    Answer,
    InternalError,
    dialect_of,
    error_answer,
    fields,
    json_answer,
    method_not_allowed,
    not_found,
    show,
)
from athena.proxy.keyring import KeyRing
from athena.proxy.keys import KeysFile
from athena.proxy.model_changes import CHANGES, ModelChanges
from athena.proxy.models import Models
from athena.proxy.ollama_models import OllamaModels
from athena.proxy.quota import Quotas
from athena.proxy.server.exchange import Exchange
from athena.proxy.server.listener import Server
from athena.proxy.used_keys import UsedKeys
from athena.proxy.why import why
from athena.router.board import Board
from athena.router.dispatch import Dispatcher
from athena.router.periods import Periods
from athena.router.services import RouterServices
from athena.router.types import ApiKey, Dialect, Operation
from athena.settings import ProxySettings

if TYPE_CHECKING:
    from athena.proxy.quota_redis import RedisQuotas

log = structlog.get_logger()

OpenPage = Callable[[], Awaitable[Answer]]
CallersPage = Callable[[Caller], Awaitable[Answer]]

_COLLECT_SECONDS = 2.0
_SWEEPS_OF_THE_YOUNG = 30
OLLAMA_API_VERSION = "0.11.4"
"""The Ollama whose API is spoken here; clients read it to decide what they may send."""

_MODEL = "/v1/models/"
_WHY = "/athena/why"
_SHOW = "/api/show"
_BLOBS = "/api/blobs/"
_READ = ("GET", "HEAD")
_PROMPTS: Mapping[str, tuple[Dialect, Operation]] = {
    "/v1/chat/completions": (Dialect.OPENAI, Operation.CHAT),
    "/v1/completions": (Dialect.OPENAI, Operation.GENERATE),
    "/v1/embeddings": (Dialect.OPENAI, Operation.EMBED),
    "/v1/responses": (Dialect.RESPONSES, Operation.CHAT),
    "/api/chat": (Dialect.OLLAMA, Operation.CHAT),
    "/api/generate": (Dialect.OLLAMA, Operation.GENERATE),
    "/api/embed": (Dialect.OLLAMA, Operation.EMBED),
    "/api/embeddings": (Dialect.OLLAMA, Operation.EMBED),
}


class Proxy:
    """The application: an async context manager that serves while it is entered."""

    def __init__(self, settings: ProxySettings, *, board: Board | None, shared: SharedMetrics | None) -> None:
        self._settings = settings
        self._board = board
        self._metrics = ProxyMetrics(shared)
        self._stack = AsyncExitStack()
        self._dispatcher: Dispatcher
        self._forwarder: Forwarder
        self._models: Models
        self._ollama_models: OllamaModels
        self._model_changes: ModelChanges
        self._callers: Callers
        self._pages: Mapping[str, OpenPage] = {}
        self._callers_pages: Mapping[str, CallersPage] = {}
        self._constant: Mapping[str, Answer] = {}

    async def __aenter__(self) -> Self:
        """Make the parts; raises what a neighbour or a file that they cannot do without is at fault of."""
        settings = self._settings
        keys_file = KeysFile(settings.proxy_api_keys_file) if settings.proxy_api_keys_file is not None else None
        await self._stack.enter_async_context(tracing.sending())
        services = RouterServices(
            settings,
            board=self._board,
            metrics=self._metrics.router,
            periods=Periods(),
            keys=settings.asks_for_keys,
        )
        await self._stack.enter_async_context(services)
        self._callers = await self._know_callers(keys_file, services)
        self._start(services)
        await self._stack.enter_async_context(self._metrics)
        self._stack.callback(_tune_collector())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def served_by(self, server: Server) -> None:
        """Show in the metrics how many callers the server holds, and how many it refused."""
        self._metrics.watch_server(
            connections=lambda: len(server.connections),
            refusals=lambda: server.refused,
            tasks=lambda: len(asyncio.all_tasks(server.loop)) + server.working,
        )

    def serve(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """Answer one request: a prompt or a page that takes a while in a task, any other at once."""
        path, method = exchange.path, exchange.method
        prompt = _PROMPTS.get(path)
        if prompt is not None and method == "POST":
            return self._forwarder.serve(*prompt, exchange)
        if CHANGES.get(path) == method:
            return self._model_changes.serve(exchange)
        constant = self._constant.get(path)
        if constant is not None and method in _READ:
            show(exchange, constant)
            return None
        return self._show(exchange)

    def admit(self, exchange: Exchange) -> AthenaError | None:
        """Refuse a body that is still on its way if its caller may not send it."""
        path, method = exchange.path, exchange.method
        try:
            if CHANGES.get(path) == method:
                self._callers.administrator(exchange)
            elif path.startswith(_BLOBS):
                return _no_files(path)
            elif (path in _PROMPTS or path == _SHOW) and method == "POST":
                prompt = _PROMPTS.get(path)
                self._callers.identify(exchange, scope_of(prompt[1]) if prompt is not None else KeyScope.MODELS)
        except AthenaError as error:
            return error
        return None

    def refuse(self, exchange: Exchange, error: AthenaError) -> None:
        """Answer with an error of the server's, in the dialect of the path."""
        prompt = _PROMPTS.get(exchange.path)
        if prompt is not None and exchange.method == "POST":
            self._forwarder.refuse(*prompt, exchange, error)
        else:
            show(exchange, error_answer(dialect_of(exchange.path), error))

    async def _know_callers(self, file: KeysFile | None, services: RouterServices) -> Callers:
        settings = self._settings
        token = settings.admin_api_token.get_secret_value() if settings.admin_api_token is not None else None
        if not settings.asks_for_keys:
            return Callers(None, token=token)
        quotas = Quotas(services.gates.board, self._redis())

        def caller_of(key: ApiKey) -> Caller:
            return Caller(key.name, key, quotas.of(key))

        if token is None:
            return Callers(KeyRing(file, None, caller_of=caller_of))
        used = UsedKeys(services.upstream, url=settings.admin_api_url, token=token)
        await self._stack.enter_async_context(used)
        return Callers(KeyRing(file, services.configuration, caller_of=caller_of), used, token=token)

    def _redis(self) -> "RedisQuotas | None":
        if self._settings.redis_url is None:
            return None
        from athena.proxy.quota_redis import RedisQuotas  # noqa: PLC0415 - memory that others do not pay

        redis = RedisQuotas(self._settings.redis_url)
        self._stack.push_async_callback(redis.aclose)
        return redis

    def _start(self, services: RouterServices) -> None:
        configuration = services.configuration
        models = Models(configuration, services.upstream, self._settings.ollama_url)
        self._dispatcher = services.dispatcher
        self._models = models
        self._ollama_models = OllamaModels(
            configuration, services.dispatcher, services.upstream, ollama_url=self._settings.ollama_url
        )
        self._model_changes = ModelChanges(
            configuration, services.upstream, self._callers, ollama_url=self._settings.ollama_url
        )
        self._forwarder = Forwarder(services.dispatcher, configuration, self._metrics, self._callers, tracing.traces())
        self._constant = {
            "/": Answer(body=b"Athena is running", fields=fields(TEXT)),
            "/api/version": json_answer({"version": OLLAMA_API_VERSION}),
            "/livez": json_answer({"status": "alive"}),
            "/openapi.json": Answer(body=_description()),
        }

        async def metrics() -> Answer:
            return Answer(body=self._metrics.exposition(), fields=fields(CONTENT_TYPE.encode()))

        self._pages = {
            "/health": lambda: health(configuration, models, services.gates),
            "/metrics": metrics,
        }
        self._callers_pages = {
            "/api/ps": self._ollama_models.ps,
            "/api/tags": models.tags,
            "/v1/models": models.list,
        }

    async def _show(self, exchange: Exchange) -> None:
        path, method = exchange.path, exchange.method
        try:
            answer = await self._page(exchange)
        except AthenaError as error:
            answer = error_answer(dialect_of(path), error)
        except Exception:
            log.exception("unexpected_error", method=method, path=path, request_id=exchange.identity.decode())
            failure = InternalError("The proxy failed on this request; its log has the cause.")
            answer = error_answer(dialect_of(path), failure)
        show(exchange, answer)

    async def _page(self, exchange: Exchange) -> Answer:
        path, method = exchange.path, exchange.method
        if path in _PROMPTS or path in CHANGES or (path == _SHOW and method != "POST"):
            return method_not_allowed(path, method, (CHANGES.get(path, "POST"),))
        if path.startswith(_BLOBS):
            raise _no_files(path)
        if path == _SHOW:
            caller = self._callers.identify(exchange, KeyScope.MODELS)
            return await self._ollama_models.show(exchange.body, caller)
        page = self._pages.get(path)
        of_models = path in self._callers_pages or path == _WHY or (path.startswith(_MODEL) and path != _MODEL)
        if page is None and not of_models and path not in self._constant:
            return not_found(path)
        if method not in _READ:
            return method_not_allowed(path, method, _READ)
        if page is not None:
            return await page()
        if path == _WHY and self._callers.has_token(exchange):  # the Admin API asks, who has no key
            caller = Caller(exchange.peer)
        else:
            caller = self._callers.identify(exchange, KeyScope.MODELS)
        return await self._tell(path, exchange.query, caller)

    async def _tell(self, path: str, query: str, caller: Caller) -> Answer:
        """Return what a caller is told of the models."""
        if path == _WHY:
            return await why(self._dispatcher, query, caller)
        page = self._callers_pages.get(path)
        return await page(caller) if page is not None else await self._models.show(path.removeprefix(_MODEL), caller)


def create_app(settings: ProxySettings, *, board: Board | None = None, shared: SharedMetrics | None = None) -> Proxy:
    """Return the proxy; its parts are made when it is entered.

    One of several workers is handed the `board` that they share, attached, and the metrics of the others.
    """
    return Proxy(settings, board=board, shared=shared)


def _no_files(path: str) -> ForbiddenError:
    return ForbiddenError(
        f"{path} is for files of models, which do not go through a proxy: an administrator makes models of files on "
        "the engine's host."
    )


def _tune_collector() -> Callable[[], None]:
    """Spare the garbage collector what lives as long as the process, and rare looks at the rest; returns the way back.

    Looking at all of it again and again takes 5 to 10 % of the time.
    """
    thresholds = gc.get_threshold()
    loop = asyncio.get_running_loop()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)

    timer: asyncio.TimerHandle | None = None
    sweeps = 0

    def collect() -> None:
        nonlocal timer, sweeps
        sweeps += 1
        # Circles with a large body in them are few objects, so that no threshold tells. What is young often; now and
        # then all, for what was in use while it was young.
        gc.collect(1 if sweeps % _SWEEPS_OF_THE_YOUNG else 2)
        timer = loop.call_later(_COLLECT_SECONDS, collect)

    timer = loop.call_later(_COLLECT_SECONDS, collect)

    def undo() -> None:
        if timer is not None:
            timer.cancel()
        gc.set_threshold(*thresholds)
        gc.unfreeze()

    return undo


def _description() -> bytes:
    """Return the OpenAPI description with the version of the installed package."""
    description = msgspec.json.decode(files("athena.proxy").joinpath("openapi.json").read_bytes())
    description["info"]["version"] = version("athena-llm-backend")
    return msgspec.json.encode(description)
