"""The Admin API is gone for an hour, in which every wait of the proxy's for it takes a five-thousandth of its time."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from athena.proxy.app import create_app
from athena.proxy.server.limits import Limits
from athena.router import figures, services, snapshot
from athena.router.batch import Batch
from athena.router.upstream import UpstreamClient
from athena.settings import ProxySettings
from tests.steadiness.test_neighbours_gone import ASKED, ask_a_few
from tests.steadiness.world import World, until
from tests.support.ports import quiet_port
from tests.support.prompt_server import serving_prompts
from tests.support.registry import TOKEN, Registry, backend

FASTER = 5000
REPORTS = int(3600 / figures.REPORT_SECONDS)  # in an hour
PARTS = 10  # of the hour; prompts come in each


class Hour:
    """Has a proxy hurry where it waits for the Admin API, and counts its reports of figures."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reports = 0
        every, spool_every = figures.REPORT_SECONDS / FASTER, figures.SPOOL_SECONDS / FASTER
        patch.setattr(services, "Figures", partial(figures.Figures, every=every, spool_every=spool_every))
        patch.setattr(services, "reporter", self._reporter)
        patch.setattr(snapshot, "RETRY_SECONDS", tuple(seconds / FASTER for seconds in snapshot.RETRY_SECONDS))

    def has_tried(self, reports: float) -> bool:
        """Return whether it has tried to report so often."""
        return self.reports >= reports

    def _reporter(self, upstream: UpstreamClient, *, url: str, token: str) -> figures.Report:
        report = figures.reporter(upstream, url=url, token=token)

        async def counted(batch: Batch) -> None:
            self.reports += 1
            await report(batch)

        return counted


@contextmanager
def proxy(registry: Registry, state: Path) -> Iterator[str]:
    """Run a proxy in this process; gives its address."""
    settings = ProxySettings.model_validate(
        {
            "admin_api_url": registry.url,
            "admin_api_token": TOKEN,
            "ollama_url": f"http://127.0.0.1:{quiet_port()}",
            "router_state_file": state,
        }
    )
    with serving_prompts(create_app(settings), Limits()) as serving:
        yield serving.url


async def test_an_hour_without_the_admin_api_costs_no_prompt_no_figure_and_no_memory(
    scene: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = Hour(monkeypatch)
    row = backend(1, "m", "openai", scene.engine().url)
    spool = tmp_path / "state.figures-0.json"
    with Registry(row) as registry, capture_logs() as logs, proxy(registry, tmp_path / "state.json") as url:

        def health() -> dict[str, object]:
            answer = httpx.get(url + "/health")
            assert answer.status_code == 200
            return dict(answer.json())

        await until(lambda: httpx.get(url + "/health").json()["status"] == "healthy", 30)  # it is 503 until it knows
        await asyncio.to_thread(registry.stop)
        await until(lambda: health()["status"] == "degraded", 30)
        begun = hour.reports
        for part in range(1, PARTS + 1):
            await ask_a_few(url)
            await until(partial(hour.has_tried, begun + REPORTS * part / PARTS), 60)
            kept = msgspec.json.decode(spool.read_bytes(), type=list[Batch])
            assert len(kept) <= 2, "what is kept grows with the backends, not with the hour"
            assert all(len(batch.figures) == 1 for batch in kept)
        assert "last known configuration, version 1" in str(health()["detail"])
        assert not registry.batches

        registry.put(row, backend(2, "made meanwhile", "openai", row["endpoint_url"]))
        await asyncio.to_thread(registry.start)
        await until(lambda: registry.figures().get(1, {}).get("requests") == PARTS * ASKED, 30)
        await until(lambda: not spool.exists(), 30)
        await until(lambda: health()["configuration"] == {"version": 2, "reachable": True, "complete": True}, 30)
        assert health()["status"] == "healthy"
        await ask_a_few(url)
    assert registry.figures()[1]["requests"] == (PARTS + 1) * ASKED
    assert registry.figures()[1]["errors"] == 0
    told = [line["event"] for line in logs if line["event"].startswith(("registry_", "figures_"))]
    assert sorted(told) == ["figures_wait", "registry_in_reach", "registry_in_reach", "registry_out_of_reach"]
