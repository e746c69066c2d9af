"""The agent beside a real `mlx_lm.server`."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.agent.conftest import Agent, World
from tests.engines.server import EngineServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def beside(server: EngineServer, world: World, **limits: float) -> Agent:
    """Return an agent that watches the server, with these limits."""
    assert server.pid is not None
    world.manager.adopt("mlx.service", server.pid)
    job = {"manager": "systemd", "unit": "mlx.service"}
    declared = {"name": "mlx", "kind": "mlx", "url": server.url, "model": server.model, "job": job}
    return world.agent({**declared, **limits})


def test_a_real_engine_that_is_stopped_is_let_go_on_by_one_restart(mlx_server: EngineServer, world: World) -> None:
    agent = beside(mlx_server, world, interval_seconds=0.5, deadline_seconds=5, hung_after=2)
    try:
        agent.until_state("healthy", name="mlx")
        mlx_server.freeze()
        agent.until_engine(lambda told: told["last_restart"] is not None, "mlx")
        agent.until_state("healthy", name="mlx")
    finally:
        mlx_server.thaw()
    assert len(world.manager.restarts()) == 1
    assert agent.engine("mlx")["last_restart"]["error"] is None


def test_a_real_engine_that_reads_and_writes_for_others_is_left_alone(mlx_server: EngineServer, world: World) -> None:
    # A short deadline, where several write at once.
    agent = beside(mlx_server, world, interval_seconds=0.1, deadline_seconds=1, hung_after=5)
    agent.until_state("healthy", "busy", name="mlx")
    body = {"model": "default_model", "prompt": "a b c d " * 200, "max_tokens": 300, "stream": True}

    def write(_: int) -> set[str]:
        with httpx.stream("POST", f"{mlx_server.url}/v1/completions", json=body, timeout=240) as reply:
            return {agent.engine("mlx")["state"] for piece in reply.iter_bytes() if b"[DONE]" in piece}

    with ThreadPoolExecutor(4) as callers:
        states = set[str]().union(*callers.map(write, range(4)))
    assert states <= {"healthy", "busy", "suspect"}
    agent.until_state("healthy", name="mlx")
    assert world.manager.restarts() == []
