"""The parts of a router, made from its settings and wired together: one bundle per event loop."""

from contextlib import AsyncExitStack
from random import Random
from typing import Self

from athena.observability import logs
from athena.router.dispatch import Dispatcher
from athena.router.engines import ENGINES
from athena.router.figures import Figures, reporter
from athena.router.snapshot import Configuration
from athena.router.source import AdminSource, Source
from athena.router.spool import Spool
from athena.router.upstream import UpstreamClient
from athena.settings import RouterSettings


class RouterServices:
    """Builds and owns the parts. An async context manager: they exist while it is entered.

    `async with RouterServices(settings) as services: reply = await services.dispatcher.open(call)`. A `source` stands
    in for the Admin API.
    """

    configuration: Configuration
    upstream: UpstreamClient
    figures: Figures
    dispatcher: Dispatcher

    def __init__(self, settings: RouterSettings, *, source: Source | None = None) -> None:
        self.settings = settings
        self._source = source
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        settings = self.settings
        url = settings.admin_api_url
        token = settings.admin_api_token.get_secret_value() if settings.admin_api_token is not None else None
        self.upstream = UpstreamClient()
        self._stack.push_async_callback(self.upstream.aclose)
        source = self._source or AdminSource(self.upstream, url=url, token=token)
        self.configuration = Configuration(
            source, cache_seconds=settings.config_cache_seconds, state_file=settings.router_state_file
        )
        self.figures = Figures(
            reporter(self.upstream, url=url, token=token) if token is not None else None,
            spool=Spool(settings.router_state_file) if settings.router_state_file is not None else None,
        )
        self.dispatcher = Dispatcher(
            configuration=self.configuration,
            upstream=self.upstream,
            engines=ENGINES,
            figures=self.figures,
            ollama_url=settings.ollama_url,
            random=Random(),  # noqa: S311 - it spreads requests, nothing secret
            request_log=logs.request_log(),
        )
        await self._stack.enter_async_context(self.figures)
        await self._stack.enter_async_context(self.configuration)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
