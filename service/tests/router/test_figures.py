"""Figures reach the registry once each, whatever happens on the way."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from athena.router.figures import Batch, Figure, Figures, ReportError, reporter
from athena.router.upstream import UpstreamClient
from tests.router.registry import AdminApi, Registry
from tests.router.standin import Asked, StandIn, until


class Ledger:
    """Takes batches as the Admin API does: each id once. `fate` says how the next calls go."""

    def __init__(self, *fate: str) -> None:
        self.fate = list(fate)
        self.ids: list[str] = []
        self.total: dict[int, Figure] = {}

    async def __call__(self, batch: Batch) -> None:
        """Take a batch, or fail before or after taking it."""
        fate = self.fate.pop(0) if self.fate else "taken"
        if fate == "lost":
            raise ReportError("connection refused")
        if fate == "refused":
            raise ReportError("422", final=True)
        if batch.batch_id not in self.ids:
            self.ids.append(batch.batch_id)
            for figure in batch.figures:
                self.total.setdefault(figure.backend_id, Figure(backend_id=figure.backend_id)).add(figure)
        if fate == "answer lost":
            raise ReportError("connection reset")


def success(figures: Figures, backend_id: int = 1) -> None:
    """Record one success."""
    figures.record(backend_id, error=False, seconds=0.5, completion_tokens=10, completion_seconds=0.25)


async def test_successes_and_errors_are_summed_per_backend() -> None:
    ledger = Ledger()
    figures = Figures(ledger)
    success(figures)
    success(figures)
    figures.record(1, error=True, seconds=60, completion_tokens=0, completion_seconds=0)
    success(figures, 2)
    assert await figures.flush()
    assert ledger.total[1] == Figure(
        backend_id=1, requests=3, errors=1, latency_ms_sum=1000, completion_tokens=20, completion_seconds=0.5
    )
    assert ledger.total[2].requests == 1
    assert len(ledger.ids) == 1


@settings(deadline=None)
@given(st.lists(st.sampled_from(["taken", "lost", "answer lost"]), max_size=30))
def test_no_figure_is_lost_or_counted_twice_whatever_the_network_does(fate: list[str]) -> None:
    async def go() -> None:
        ledger = Ledger(*fate)
        figures = Figures(ledger)
        for _ in range(len(fate) + 1):
            success(figures)
            await figures.flush()
        while not await figures.flush():
            pass
        assert ledger.total[1].requests == len(fate) + 1
        assert figures.pending() == {}

    asyncio.run(go())


async def test_while_nobody_takes_figures_memory_does_not_grow() -> None:
    figures = Figures(Ledger(*["lost"] * 1000))
    for _ in range(1000):
        success(figures)
        assert not await figures.flush()
    assert figures.pending()[1].requests == 1000
    (sealed,) = figures._sealed
    assert len(sealed.figures) + len(figures._sums) == 2


async def test_a_batch_that_will_never_be_taken_does_not_block_the_others() -> None:
    ledger = Ledger("refused")
    figures = Figures(ledger)
    success(figures)
    with capture_logs() as logs:
        assert not await figures.flush()
    assert [line["event"] for line in logs] == ["figures_refused"]
    success(figures, 2)
    assert await figures.flush()
    assert set(ledger.total) == {2}


async def test_figures_are_reported_from_time_to_time_and_at_the_end() -> None:
    ledger = Ledger()
    async with Figures(ledger, every=0.02) as figures:
        success(figures)
        await until(lambda: 1 in ledger.total)
        success(figures, 2)
    assert set(ledger.total) == {1, 2}


async def test_without_a_token_it_is_said_once_and_nothing_is_kept() -> None:
    with capture_logs() as logs:
        async with Figures(None) as figures:
            success(figures)
            success(figures)
    assert [line["event"] for line in logs] == ["figures_not_reported"]
    assert figures.pending() == {}


async def test_a_long_outage_is_logged_once() -> None:
    figures = Figures(Ledger(*["lost"] * 5))
    success(figures)
    with capture_logs() as logs:
        for _ in range(5):
            await figures.flush()
    assert [line["event"] for line in logs] == ["figures_wait"]


async def test_the_end_of_the_process_does_not_wait_for_an_admin_api_that_hangs() -> None:
    async def hang(_: Batch) -> None:
        await asyncio.sleep(60)

    with capture_logs() as logs:
        async with asyncio.timeout(4):
            async with Figures(hang) as figures:
                success(figures)
    assert [(line["event"], line["requests"]) for line in logs] == [("figures_lost", 1)]


async def test_two_who_report_at_once_lose_nothing() -> None:
    gate = asyncio.Event()
    ledger = Ledger()

    async def slowly(batch: Batch) -> None:
        await gate.wait()
        await ledger(batch)

    figures = Figures(slowly)
    success(figures)
    first = asyncio.create_task(figures.flush())
    second = asyncio.create_task(figures.flush())
    await asyncio.sleep(0)
    success(figures, 2)
    gate.set()
    assert await first
    assert await second
    assert {number: sums.requests for number, sums in ledger.total.items()} == {1: 1, 2: 1}


async def test_a_fault_of_the_reporting_itself_does_not_end_it() -> None:
    ledger = Ledger()
    calls: list[Batch] = []

    async def stumble(batch: Batch) -> None:
        calls.append(batch)
        if len(calls) == 1:
            raise RuntimeError("a bug")
        await ledger(batch)

    with capture_logs() as logs:
        async with Figures(stumble, every=0.01) as figures:
            success(figures)
            await until(lambda: 1 in ledger.total)
    assert [line["event"] for line in logs] == ["figures_not_reported"]


async def test_batches_are_posted_to_the_admin_api() -> None:
    client = UpstreamClient()
    api = AdminApi(Registry())
    async with StandIn(api) as admin:
        figures = Figures(reporter(client, url=admin.url, token=api.token))
        success(figures, 7)
        api.figures_status = 503
        assert not await figures.flush()
        api.figures_status = 204
        assert await figures.flush()
        first, second = api.batches
        assert first == second
        assert second["figures"] == [
            {
                "backend_id": 7,
                "requests": 1,
                "latency_ms_sum": 500.0,
                "completion_tokens": 10,
                "completion_seconds": 0.25,
            }
        ]
    await client.aclose()


async def test_an_answer_that_never_comes_leaves_the_batch_to_be_sent_again() -> None:
    async def close(asked: Asked) -> None:
        asked.writer.close()

    client = UpstreamClient()
    async with StandIn(close) as admin:
        figures = Figures(reporter(client, url=admin.url, token="t" * 16))
        success(figures)
        assert not await figures.flush()
        assert figures.pending()[1].requests == 1
    await client.aclose()
