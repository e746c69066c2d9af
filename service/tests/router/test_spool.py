"""Figures that could not be reported are not lost with the process, and none counts twice."""

import asyncio
import stat
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from athena.router.batch import Batch, Figure
from athena.router.figures import Figures, Report, ReportError
from athena.router.services import RouterServices
from athena.router.spool import Spool
from athena.settings import RouterSettings
from tests.router.registry import AdminApi, Registry
from tests.router.standin import StandIn, refused_url, until
from tests.router.test_figures import Ledger, success

STATE_FILE = "router-proxy.json"


def spools(folder: Path) -> list[str]:
    """Return the names of the files that hold figures."""
    return sorted(path.name for path in folder.glob("*.figures-*") if path.suffix != ".lock")


def batch(name: str, requests: int) -> Batch:
    """Return a batch of backend 1."""
    return Batch(batch_id=name, figures=[Figure(backend_id=1, requests=requests)])


def figures_in(folder: Path, report: Report, **more: float) -> Figures:
    """Return the figures of a process whose state file is in this folder."""
    return Figures(report, spool=Spool(folder / STATE_FILE), **more)


async def killed(figures: Figures) -> None:
    """End a process as `kill -9` does: it writes nothing more, and its locks are gone."""
    assert figures._task is not None
    figures._task.cancel()
    await asyncio.gather(figures._task, return_exceptions=True)
    if figures._saving is not None:
        await figures._saving
    assert figures._spool is not None
    figures._spool.close()


async def lost(_: Batch) -> None:
    """Report to an Admin API that is away."""
    raise ReportError("connection refused")


@pytest.mark.parametrize("whole_life", [0.01, 5.0])
async def test_figures_of_a_router_that_never_saw_the_admin_api_are_reported_by_the_next(
    tmp_path: Path, whole_life: float
) -> None:
    with capture_logs() as logs:
        async with figures_in(tmp_path, lost, every=whole_life) as figures:
            for number in (1, 1, 2):
                success(figures, number)
            await asyncio.sleep(0.05)
            success(figures)
    kept = logs[-1]
    assert (kept["event"], kept["requests"]) == ("figures_kept", 4)
    (name,) = spools(tmp_path)
    assert name == "router-proxy.figures-0.json"
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600

    ledger = Ledger()
    with capture_logs() as logs:
        async with figures_in(tmp_path, ledger, every=0.01) as figures:
            await until(lambda: not spools(tmp_path))
            success(figures)
    assert (logs[0]["event"], logs[0]["requests"]) == ("figures_found", 4)
    assert {number: sums.requests for number, sums in ledger.total.items()} == {1: 4, 2: 1}
    assert ledger.total[1].latency_ms_sum == 2000
    assert ledger.total[1].completion_tokens == 40


async def test_a_batch_whose_fate_is_unknown_counts_once_over_a_restart(tmp_path: Path) -> None:
    ledger = Ledger("answer lost", "lost")
    for _ in range(3):  # the first report is counted but not confirmed, the second does not arrive
        async with figures_in(tmp_path, ledger) as figures:
            success(figures)
    assert ledger.total[1].requests == 3
    assert len(ledger.ids) == 3
    assert spools(tmp_path) == []


async def test_a_killed_router_loses_no_more_than_came_since_it_wrote_its_figures_down(tmp_path: Path) -> None:
    figures = figures_in(tmp_path, lost, every=0.005)
    await figures.__aenter__()
    success(figures)
    await until(lambda: spools(tmp_path) != [])
    success(figures)  # not written down before 30 s are over
    await asyncio.sleep(0.05)
    await killed(figures)
    ledger = Ledger()
    async with figures_in(tmp_path, ledger):
        pass
    assert ledger.total[1].requests == 1


async def test_while_reporting_fails_the_spool_follows_now_and_then(tmp_path: Path) -> None:
    figures = figures_in(tmp_path, lost, every=0.005, spool_every=0.02)
    await figures.__aenter__()
    file = tmp_path / "router-proxy.figures-0.json"
    success(figures)
    await until(file.exists)
    success(figures)
    await until(lambda: file.read_text().count('"requests":1') == 2)
    success(figures)
    await until(lambda: '"requests":2' in file.read_text())
    await killed(figures)
    ledger = Ledger()
    async with figures_in(tmp_path, ledger):
        pass
    assert ledger.total[1].requests == 3


async def test_a_router_killed_between_a_report_and_the_removal_of_its_spool_counts_once(tmp_path: Path) -> None:
    ledger = Ledger("lost", "lost")
    figures = figures_in(tmp_path, ledger, every=3600)
    await figures.__aenter__()
    success(figures)
    assert not await figures.flush()
    success(figures)
    assert figures._spool is not None
    await figures._save(figures._spool)
    success(figures)
    assert not await figures.flush()
    assert await figures.flush()
    assert ledger.total[1].requests == 3
    await killed(figures)  # the spool still holds the first two
    assert spools(tmp_path) != []
    async with figures_in(tmp_path, ledger):
        pass
    assert ledger.total[1].requests == 3


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.lists(st.sampled_from(["taken", "lost", "answer lost"]), max_size=6), st.booleans())))
def test_over_any_lives_and_ends_none_counts_twice_and_only_a_kill_loses(
    lives: list[tuple[list[str], bool]],
) -> None:
    async def go(folder: Path) -> None:
        ledger = Ledger()
        recorded = 0
        for fate, kill in lives:
            figures = figures_in(folder, ledger, every=3600)
            await figures.__aenter__()
            ledger.fate = list(fate)
            for _ in fate:
                success(figures)
                recorded += 1
                await figures.flush()
                assert figures._spool is not None
                await figures._save(figures._spool)
            if kill:
                success(figures)
                recorded += 1
                await killed(figures)
            else:
                ledger.fate = [*fate, "lost"]
                await figures.__aexit__()
        ledger.fate = []
        async with figures_in(folder, ledger):
            pass
        kills = sum(kill for _, kill in lives)
        counted = ledger.total[1].requests if 1 in ledger.total else 0
        assert counted == recorded - kills
        assert spools(folder) == []

    with tempfile.TemporaryDirectory() as folder, capture_logs():
        asyncio.run(go(Path(folder)))


async def test_routers_that_run_at_once_have_a_spool_each_and_one_that_comes_later_takes_over_all(
    tmp_path: Path,
) -> None:
    async with (
        figures_in(tmp_path, lost) as one,
        figures_in(tmp_path, lost) as two,
        figures_in(tmp_path, lost) as three,
    ):
        for figures in (one, two, three):
            success(figures)
    assert spools(tmp_path) == [f"router-proxy.figures-{number}.json" for number in range(3)]
    ledger = Ledger()
    async with figures_in(tmp_path, ledger):
        assert spools(tmp_path) == ["router-proxy.figures-0.json"]
    assert ledger.total[1].requests == 3
    assert spools(tmp_path) == []


def test_nobody_takes_over_the_spool_of_a_router_that_runs(tmp_path: Path) -> None:
    living = Spool(tmp_path / STATE_FILE)
    assert living.open() == []
    living.save([batch("mine", 1)])
    other = Spool(tmp_path / STATE_FILE)
    assert other.open() == []
    assert other.file != living.file
    living.close()
    assert Spool(tmp_path / STATE_FILE).open() == [batch("mine", 1)]
    other.close()


def test_of_two_routers_with_state_files_of_their_own_none_touches_the_others(tmp_path: Path) -> None:
    proxy = Spool(tmp_path / STATE_FILE)
    proxy.open()
    proxy.save([batch("mine", 1)])
    proxy.close()
    assert Spool(tmp_path / "router-orchestrator.json").open() == []
    assert Spool(tmp_path / STATE_FILE).open() == [batch("mine", 1)]


def test_a_takeover_that_was_interrupted_leaves_no_batch_twice(tmp_path: Path) -> None:
    for number, batches in {0: [batch("a", 1), batch("b", 2)], 7: [batch("b", 2)]}.items():
        (tmp_path / f"router-proxy.figures-{number}.json").write_bytes(msgspec.json.encode(batches))
    found = Spool(tmp_path / STATE_FILE).open()
    assert sorted(batch.batch_id for batch in found) == ["a", "b"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"a": 1}', b'[{"batch_id": 1}]', b"\xff\xfe", b'["' + b"\xff" * 9, b"[" * 100_000, b"null"]
)
async def test_a_spool_that_is_not_understood_is_moved_aside_and_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "router-proxy.figures-0.json").write_bytes(content)
    ledger = Ledger()
    with capture_logs() as logs:
        async with figures_in(tmp_path, ledger) as figures:
            success(figures)
    assert [line["event"] for line in logs] == ["figures_spool_corrupt"]
    assert (tmp_path / "router-proxy.figures-0.corrupt").read_bytes() == content
    assert spools(tmp_path) == ["router-proxy.figures-0.corrupt"]
    assert ledger.total[1].requests == 1


async def test_without_a_place_for_the_spool_figures_are_reported_all_the_same(tmp_path: Path) -> None:
    ledger = Ledger()
    with capture_logs() as logs:
        async with figures_in(tmp_path / "missing", ledger) as figures:
            success(figures)
    assert [line["event"] for line in logs] == ["figures_not_spooled"]
    assert ledger.total[1].requests == 1


async def test_a_spool_that_cannot_be_written_at_the_end_says_what_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    with capture_logs() as logs:
        async with figures_in(folder, lost) as figures:
            success(figures)
            (folder / "router-proxy.figures-0.lock").unlink()
            folder.rmdir()
    assert [line["event"] for line in logs] == ["figures_wait", "figures_lost"]
    assert logs[-1]["requests"] == 1


async def test_a_router_restarted_after_an_outage_of_the_admin_api_reports_what_it_answered_meanwhile(
    tmp_path: Path,
) -> None:
    api = AdminApi(Registry())
    async with StandIn(api) as admin:

        def router(url: str) -> RouterServices:
            return RouterServices(
                RouterSettings.model_validate(
                    {
                        "admin_api_url": url,
                        "admin_api_token": api.token,
                        "ollama_url": refused_url(),
                        "router_state_file": tmp_path / STATE_FILE,
                    }
                )
            )

        async with router(refused_url()) as services:
            success(services.figures, 7)
            success(services.figures, 7)
        assert api.batches == []
        async with router(admin.url):
            pass
    assert [figure["requests"] for sent in api.batches for figure in sent["figures"]] == [2]
