"""An agent as a process, with a stand-in service manager and what that runs."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.agent.service_manager import ServiceManager, service_manager
from tests.support.ports import quiet_port
from tests.support.processes import Server

SOON_SECONDS = 90.0  # how long a busy machine may take; nothing is asserted to be quicker


def until(holds: Callable[[], bool], told: Callable[[], object]) -> None:
    """Wait until something holds; fails with what there is to tell."""
    deadline = time.monotonic() + SOON_SECONDS
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(0.05)


class Agent:
    """A running agent."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.url, timeout=30)

    def status(self) -> dict[str, Any]:
        """Return /status."""
        status: dict[str, Any] = self.client.get("/status").raise_for_status().json()
        return status

    def engine(self, name: str = "llama") -> dict[str, Any]:
        """Return what it says of one engine."""
        return next(engine for engine in self.status()["engines"] if engine["name"] == name)

    def until_engine(self, holds: Callable[[dict[str, Any]], bool], name: str = "llama") -> None:
        """Wait until what it says of an engine is so."""
        until(lambda: holds(self.engine(name)), lambda: (self.engine(name), self.server.lines()))

    def until_state(self, *states: str, name: str = "llama") -> None:
        """Wait until an engine is in one of these states."""
        self.until_engine(lambda engine: engine["state"] in states, name)

    def metric(self, line: str) -> float:
        """Return the value of a line of /metrics, named up to its value."""
        for written in self.client.get("/metrics").raise_for_status().text.splitlines():
            if written.startswith(f"{line} "):
                return float(written.rpartition(" ")[2])
        raise AssertionError(f"no line {line}")

    def until_probes(self, outcome: str, count: int, name: str = "llama") -> None:
        """Wait until so many more probes have shown this."""
        line = f'athena_engine_probes_total{{engine="{name}",outcome="{outcome}"}}'
        before = self.metric(line)
        until(lambda: self.metric(line) >= before + count, lambda: self.engine(name))


class World:
    """The service manager, and agents that watch what it runs."""

    def __init__(self, folder: Path, manager: ServiceManager) -> None:
        self.folder = folder
        self.manager = manager
        self.port = quiet_port()
        self._agents: list[Agent] = []

    def engine_command(self, *arguments: str) -> list[str]:
        """Return the command of the stand-in engine."""
        return [sys.executable, "-m", "tests.agent.engine", str(self.port), *arguments]

    def start_engine(self, *arguments: str) -> None:
        """Have the manager run the stand-in engine as llama.service."""
        self.manager.add("llama.service", *self.engine_command(*arguments))

    def engine_config(self, **fields: Any) -> dict[str, Any]:
        """Return the declaration of the stand-in engine, with times for a test: quick, but not for a busy machine."""
        return {
            "name": "llama",
            "kind": "mlx",
            "url": f"http://127.0.0.1:{self.port}",
            "model": "tiny",
            "job": {"manager": "systemd", "unit": "llama.service"},
            "interval_seconds": 0.2,
            "deadline_seconds": 4,
            "hung_after": 3,
            "grace_seconds": 60,
            "patience_seconds": 600,
            **fields,
        }

    def agent(
        self,
        *engines: dict[str, Any],
        restarts: dict[str, Any] | None = None,
        arguments: Sequence[str] = (),
        **variables: str,
    ) -> Agent:
        """Start an agent, by default for the stand-in engine."""
        config = {
            "host": "mac-1",
            "engines": engines or [self.engine_config()],
            "restarts": restarts or {},
            "report_seconds": 0.5,
            "figures_seconds": 0.5,
        }
        file = self.folder / "agent.json"
        file.write_text(json.dumps(config))
        log = self.folder / f"agent-{len(self._agents)}.log"
        variables = {"AGENT_CONFIG": str(file), "PATH": self.manager.path, **variables}
        server = Server("agent", log, variables, arguments=arguments)
        agent = Agent(server)
        self._agents.append(agent)
        return agent

    def stop(self) -> None:
        """End every agent."""
        for agent in self._agents:
            agent.client.close()
            agent.server.kill()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A service manager that runs nothing yet, and no agent."""
    with service_manager(tmp_path / "manager") as manager:
        world = World(tmp_path, manager)
        try:
            yield world
        finally:
            world.stop()
