"""The parts of a router, made from its settings and wired together: one bundle per event loop."""

from contextlib import AsyncExitStack
from random import Random
from typing import Self

from athena.observability import logs, tracing
from athena.observability.router_metrics import BackendReading, RouterMetrics
from athena.router.attempt import Books
from athena.router.board import Board
from athena.router.dispatch import Dispatcher
from athena.router.engines import ENGINES
from athena.router.figures import Figures, reporter
from athena.router.gates import Gates
from athena.router.judge import MEASURED, WEIGHTED, Judge
from athena.router.periods import Periods
from athena.router.probes import Prober
from athena.router.probing import Asker
from athena.router.residence import Residents
from athena.router.scouting import Scout
from athena.router.snapshot import Configuration
from athena.router.source import AdminSource, Source
from athena.router.spool import Spool
from athena.router.upstream import UpstreamClient
from athena.router.watch import Watch
from athena.settings import RouterSettings


class RouterServices:
    """Builds and owns the parts. An async context manager: they exist while it is entered.

    `async with RouterServices(settings) as services: reply = await services.dispatcher.open(call)`. A `source` stands
    in for the Admin API. `board` is that of all workers of a proxy, attached; otherwise this loop has limits and
    breakers of its own. `metrics` counts what happens to requests. With `periods` the engines
    are watched, by the first worker with probes of its own; otherwise requests alone show which engines serve. `keys`
    has the configuration know the API keys of the registry as well.
    """

    configuration: Configuration
    upstream: UpstreamClient
    figures: Figures
    dispatcher: Dispatcher

    gates: Gates

    def __init__(
        self,
        settings: RouterSettings,
        *,
        source: Source | None = None,
        board: Board | None = None,
        metrics: RouterMetrics | None = None,
        periods: Periods | None = None,
        keys: bool = False,
    ) -> None:
        self._keys = keys
        self._periods = periods
        self.settings = settings
        self.metrics = metrics if metrics is not None else RouterMetrics()
        self._board = board if board is not None else Board()
        self._source = source
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        settings = self.settings
        url = settings.admin_api_url
        token = settings.admin_api_token.get_secret_value() if settings.admin_api_token is not None else None
        self.upstream = UpstreamClient()
        self._stack.push_async_callback(self.upstream.aclose)
        source = self._source or AdminSource(self.upstream, url=url, token=token, keys=self._keys)
        self.configuration = Configuration(
            source, cache_seconds=settings.config_cache_seconds, state_file=settings.router_state_file
        )
        self.figures = Figures(
            reporter(self.upstream, url=url, token=token) if token is not None else None,
            spool=Spool(settings.router_state_file) if settings.router_state_file is not None else None,
        )
        random = Random()  # noqa: S311 - it spreads requests, nothing secret
        self.gates = Gates(
            self._board,
            queue_seconds=settings.queue_seconds,
            ollama_concurrency=settings.ollama_concurrency,
            random=random,
        )
        self.metrics.watch_backends(self._readings)
        self.metrics.watch_configuration(lambda: (self.configuration.snapshot.version, self.configuration.reachable))
        judge = _judge(settings, random)
        self.dispatcher = Dispatcher(
            configuration=self.configuration,
            upstream=self.upstream,
            engines=ENGINES,
            books=Books(
                self.figures, logs.request_log(), self.metrics, logs.content_log(), tracing.traces(), judge=judge
            ),
            gates=self.gates,
            ollama_url=settings.ollama_url,
            random=random,
            judge=judge,
        )
        await self._stack.enter_async_context(self.gates)
        if self._periods is not None:
            await self._watch(self._periods, random, judges=judge is not None)
        await self._stack.enter_async_context(self.figures)
        await self._stack.enter_async_context(self.configuration)
        return self

    def _readings(self) -> list[BackendReading]:
        """Return how the backends of the present configuration do, also where no request has come since it changed."""
        self.dispatcher.follow()
        return self.gates.readings()

    async def _watch(self, periods: Periods, random: Random, *, judges: bool) -> None:
        upstream = UpstreamClient(connect_seconds=periods.check_within, names=self.upstream.names)
        self._stack.push_async_callback(upstream.aclose)
        asker = Asker(upstream, check_seconds=periods.check_within, generate_seconds=periods.generate_within)
        await self._stack.enter_async_context(Watch(self.gates, asker, periods))
        if self._board.worker == 0:
            prober = Prober(
                self.gates,
                asker,
                periods,
                follow=self.dispatcher.follow,
                random=random,
            )
            await self._stack.enter_async_context(prober)
            await self._stack.enter_async_context(Scout(self.gates, upstream, periods, random=random))
            if judges:
                await self._stack.enter_async_context(Residents(self.gates, asker, self.dispatcher.judged))

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


def _judge(settings: RouterSettings, random: Random) -> Judge | None:
    auto, hosts = settings.router_auto_policy == MEASURED, settings.router_host_policy
    return Judge(random, auto=auto, hosts=hosts) if auto or hosts != WEIGHTED else None
