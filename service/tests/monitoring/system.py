"""The whole system as an operator has it: every service a process of its own, with engines that serve and that fail."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from athena.proxy.keys import new_key
from tests.agent.service_manager import service_manager
from tests.monitoring.prometheus import Jobs, Target
from tests.orchestrator.test_intents import GOOD
from tests.support.faults.process import engine
from tests.support.ports import quiet_port
from tests.support.processes import Server, serving
from tests.support.redis_server import RedisServer

TOKEN = "a-token-of-the-monitored-system"

SHARED = "llama3.1:8b"  # two engines share it, 3 to 1
FAILING_OVER = "phi3:mini"  # an MLX that fails, with an Ollama behind it
AUTO = "qwen2.5:7b"  # an MLX that serves, with the default Ollama behind it
COMPARED = "compared"  # two engines share it, each an arm
BROKEN = "broken"  # an engine that fails whatever a caller asks
CUT = "cut"  # an engine that breaks off after its first token
NARROW = "narrow"  # an engine that takes one request at once
DISABLED = "retired"
SMALL, LARGE = "small", "large"  # of the orchestrator


@dataclass(frozen=True)
class System:
    """What runs. `key` is that of a caller of the proxy; `numbers` are the backends' ids by model, in the order of
    their priorities.
    """

    admin: Server
    proxy: Server
    orchestrator: Server
    agent: Server
    key: str
    numbers: dict[str, list[int]]

    def client(self) -> httpx.Client:
        """Return an operator's client of the Admin API."""
        return httpx.Client(base_url=self.admin.url, timeout=30, headers={"authorization": f"Bearer {TOKEN}"})

    def services(self) -> dict[str, Server]:
        """Return the processes by the names of their jobs in Prometheus."""
        return {"admin": self.admin, "proxy": self.proxy, "orchestrator": self.orchestrator, "agent": self.agent}

    def jobs(self) -> Jobs:
        """Return what Prometheus is to scrape of it, labelled as the role labels it."""
        return {
            name: [Target(server.url.removeprefix("http://"), {"service": name})]
            for name, server in self.services().items()
        }


@contextmanager
def running_system(folder: Path, database_url: str) -> Iterator[System]:
    """Run it on a migrated database: Admin API, proxy with two workers and API keys, orchestrator, agent."""
    with ExitStack() as stack:
        admin = stack.enter_context(
            serving("admin", folder / "admin.log", DATABASE_URL=database_url, ADMIN_API_TOKEN=TOKEN)
        )
        ollama = stack.enter_context(engine())
        numbers = _register(admin, _backends(stack, ollama.url))
        router = {"ADMIN_API_URL": admin.url, "ADMIN_API_TOKEN": TOKEN, "OLLAMA_URL": ollama.url}
        key, line = new_key("somebody")
        keys = folder / "keys"
        keys.write_text(line + "\n")
        keys.chmod(0o600)
        proxy = stack.enter_context(
            serving("proxy", folder / "proxy.log", "--workers", "2", PROXY_API_KEYS_FILE=str(keys), **router)
        )
        intents = folder / "intents.toml"
        intents.write_text(GOOD)
        redis = RedisServer(folder)
        redis.start()
        stack.callback(redis.stop)
        of_it = {"ORCHESTRATOR_INTENTS_FILE": str(intents), "REDIS_URL": redis.url}
        orchestrator = stack.enter_context(serving("orchestrator", folder / "orchestrator.log", **of_it, **router))
        agent = stack.enter_context(_agent(folder, ollama.url, ADMIN_API_URL=admin.url, ADMIN_API_TOKEN=TOKEN))
        for server in (proxy, orchestrator):
            server.told("registry_in_reach")
        yield System(admin, proxy, orchestrator, agent, key, numbers)


def _backends(stack: ExitStack, ollama_url: str) -> list[dict[str, Any]]:
    """Start the other engines; returns what is to be registered."""
    mlx, vllm = stack.enter_context(engine(http10=True)), stack.enter_context(engine())
    failing, cutting = stack.enter_context(engine(http10=True)), stack.enter_context(engine())
    # What the proxy asks by itself is answered, so that it goes on sending callers there.
    failing.become("fail", only="caller")
    cutting.become("close_after_first_token", only="caller")
    return [
        _row(SHARED, "ollama", ollama_url, priority=0, weight=3),
        _row(SHARED, "openai", vllm.url, priority=0, weight=1),
        _row(FAILING_OVER, "mlx", failing.url, priority=0, weight=1),
        _row(FAILING_OVER, "ollama", ollama_url, priority=1, weight=1),
        _row(AUTO, "auto", mlx.url),
        _row(COMPARED, "ollama", ollama_url),
        _row(COMPARED, "openai", vllm.url, arm="quantised"),
        _row(BROKEN, "openai", failing.another_url(), max_queue=0),
        _row(CUT, "openai", cutting.url),
        _row(NARROW, "openai", vllm.another_url(), max_concurrency=1),
        _row(DISABLED, "ollama", ollama_url, enabled=False),
        _row(SMALL, "ollama", ollama_url),
        _row(LARGE, "ollama", ollama_url),
    ]


def _row(model: str, engine_type: str, url: str, **more: Any) -> dict[str, Any]:
    return {"model_name": model, "backend_type": engine_type, "endpoint_url": url, "max_concurrency": 8, **more}


def _register(admin: Server, rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    with httpx.Client(base_url=admin.url, timeout=30, headers={"authorization": f"Bearer {TOKEN}"}) as client:
        for row in rows:
            answer = client.post("/api/llm-backends", json=row)
            assert answer.status_code == 201, answer.text
            numbers.setdefault(row["model_name"], []).append(answer.json()["id"])
    return numbers


@contextmanager
def _agent(folder: Path, ollama_url: str, **variables: str) -> Iterator[Server]:
    """Run an agent with an Ollama that is well, and an MLX server that hangs and is started anew."""
    with service_manager(folder / "manager") as manager:
        port = quiet_port()
        manager.add("mlx.service", sys.executable, "-m", "tests.agent.engine", str(port), "--hang")
        often = {"interval_seconds": 0.5, "deadline_seconds": 1, "grace_seconds": 1, "patience_seconds": 1}
        job = {"manager": "systemd", "unit": "mlx.service"}
        config = {
            "host": "mac-1",
            "engines": [
                {"name": "ollama", "kind": "ollama", "url": ollama_url, "model": SHARED, **often},
                {
                    "name": "mlx",
                    "kind": "mlx",
                    "url": f"http://127.0.0.1:{port}",
                    "model": AUTO,
                    "job": job,
                    "hung_after": 1,
                    **often,
                },
            ],
            "restarts": {"most": 1, "pause_seconds": 0},
            "report_seconds": 0.5,
            "figures_seconds": 0.5,
        }
        file = folder / "agent.json"
        file.write_text(json.dumps(config))
        with serving("agent", folder / "agent.log", AGENT_CONFIG=str(file), PATH=manager.path, **variables) as agent:
            yield agent
