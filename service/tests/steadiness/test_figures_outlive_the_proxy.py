"""The proxy ends while the Admin API is gone: what it counted is on disk, and reported by the next one."""

import asyncio

import pytest

from tests.steadiness.test_neighbours_gone import ASKED, ask_a_few
from tests.steadiness.world import World, within
from tests.support.registry import backend


@pytest.mark.parametrize("end", ["stop", pytest.param("kill", marks=pytest.mark.slow)])
async def test_figures_outlive_the_proxy_while_the_admin_api_is_gone(scene: World, end: str) -> None:
    state = str(scene.folder / "state.json")
    first = scene.proxy(backend(1, "m", "openai", scene.engine().url), ROUTER_STATE_FILE=state)
    within(2, (scene.folder / "state.json").exists)
    scene.registry.stop()
    await ask_a_few(first.url)
    if end == "kill":
        await asyncio.sleep(6)  # a crash loses what came after the last spooling, no more
    await asyncio.to_thread(getattr(first.server, end))
    assert not scene.registry.batches
    scene.registry.start()
    second = scene.proxy_without_registry(ROUTER_STATE_FILE=state).wait_for_configuration()
    await asyncio.to_thread(second.server.stop)
    assert scene.registry.figures()[1]["requests"] == ASKED
