"""A router between a registry and engines that tests make up."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from athena.router.periods import Periods
from athena.router.services import RouterServices
from athena.router.types import Backend
from athena.settings import RouterSettings
from tests.router.registry import AdminApi, Registry
from tests.router.standin import Behaviour, StandIn, refused_url, serve, until
from tests.router.watching import PATIENCE, QUICK, Watched


class Bench:
    """What a test puts together: engines, a registry, and a router between them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.registry = Registry()
        self.api = AdminApi(self.registry)
        self._stack = stack

    async def engine(self, behaviour: Behaviour = serve) -> StandIn:
        """Start an engine."""
        return await self._stack.enter_async_context(StandIn(behaviour))

    async def settings(self, ollama_url: str | None = None) -> RouterSettings:
        """Return settings for the registry, which is started."""
        admin = await self.engine(self.api)
        return RouterSettings.model_validate(
            {
                "admin_api_url": admin.url,
                "admin_api_token": self.api.token,
                "ollama_url": ollama_url or refused_url(),
            }
        )

    async def router(
        self, *rows: Backend, ollama_url: str | None = None, periods: Periods | None = None
    ) -> RouterServices:
        """Start a router that knows these rows; with `periods` it watches and probes the engines."""
        self.registry.rows = list(rows)
        services = RouterServices(await self.settings(ollama_url), periods=periods)
        await self._stack.enter_async_context(services)
        await until(lambda: services.configuration.snapshot.complete)
        return services


@asynccontextmanager
async def opened() -> AsyncIterator[Bench]:
    """An empty bench, for tests that run an event loop of their own."""
    async with AsyncExitStack() as stack:
        yield Bench(stack)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """An empty bench."""
    async with opened() as bench:
        yield bench


@pytest.fixture
def watched(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Start a router that watches and probes, and knows these rows."""
    monkeypatch.setattr("athena.router.attempt._PATIENCE", PATIENCE)

    async def start(*rows: Backend, periods: Periods = QUICK) -> RouterServices:
        return await bench.router(*rows, periods=periods)

    return start
