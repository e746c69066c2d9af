"""What a router tells of its backends while it serves nobody."""

from collections.abc import Callable, Iterable

import pytest

from athena.observability.router_metrics import BackendReading, RouterMetrics
from athena.router.services import RouterServices
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import serve, until
from tests.router.test_dispatch import relayed
from tests.router.test_warmth import call


async def test_a_backend_that_was_removed_is_told_of_no_more_though_nobody_asks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Callable[[], Iterable[BackendReading]]] = []
    monkeypatch.setattr(RouterMetrics, "watch_backends", lambda _, told: read.append(told))
    first, second = await bench.engine(serve), await bench.engine(serve)
    bench.registry.rows = [row(1, first.url), row(2, second.url)]
    async with RouterServices(await bench.settings()) as services:
        await until(lambda: services.configuration.snapshot.complete)
        await relayed(await services.dispatcher.open(call("hello")))
        told = read[0]
        assert {one.backend_id for one in told()} == {"1", "2"}
        await bench.registry.put(row(2, second.url))
        await until(lambda: {one.backend_id for one in told()} == {"2"})
