"""molecule/shared/trial: what it starts is as its inventory says, and nothing of it stays."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import httpx
import msgspec
import pytest
from trials import ROOT, Trial, left_of, run, trial

from athena.router.llm_router import LLMRouter
from athena.router.types import Backend, BackendType, Snapshot
from athena.settings import RouterSettings

# The first start on a machine builds a Kubernetes and an Ollama.
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def started() -> Iterator[Trial]:
    """A trial of this checkout, of which nothing is left afterwards."""
    name = f"trial-test-{os.getpid()}"
    try:
        assert Path(trial("start", name)) == ROOT / "inventory" / name
        yield Trial(name)
    finally:
        trial("stop", name)
    assert left_of(name) == []


@pytest.fixture(scope="module")
def pod(started: Trial) -> str:
    """A pod of the image of Redis, which listens behind a port of the node."""
    arguments = ["--port", "8080", "--protected-mode", "no", "--save", ""]
    image = started.variables["athena_redis_image"]
    started.kubectl("run", "probe", f"--image={image}", "--command", "--", "redis-server", *arguments)
    keeps_addresses = json.dumps({"spec": {"externalTrafficPolicy": "Local"}})  # as a deployment's services have it
    started.kubectl("expose", "pod", "probe", "--port", "8080", "--type", "NodePort", "--overrides", keeps_addresses)
    started.kubectl("wait", "--for=condition=Ready", "pod/probe", "--timeout", "60s")
    return "probe"


def test_a_start_that_fails_half_way_is_taken_away() -> None:
    name = f"trial-fails-{os.getpid()}"
    image = run(ROOT / "molecule" / "shared" / "image", "trixie")
    run("docker", "run", "--detach", "--name", f"{name}-db", image, "sleep", "600")
    try:
        said = trial("start", name, code=1)
        assert "is already in use" in said
        assert f"stop {name}" in said
        assert "there is a trial" in trial("start", name, code=1)
        assert left_of(name)
    finally:
        trial("stop", name)
    assert left_of(name) == []
    trial("stop", name)


def test_names_that_are_no_trials_are_refused() -> None:
    for name in ("production", "trial_x", "trial/..", "Trial"):
        assert "usage" in trial("start", name, code=2)
        assert "usage" in trial("stop", name, code=2)


def test_the_inventory_has_the_groups_of_production_and_values_of_its_own(started: Trial) -> None:
    group = started.name.replace("-", "_")
    assert started.listed["production"]["children"] == [group]
    assert started.listed[group]["children"] == ["control_plane", "database", "engines"]
    assert started.listed["control_plane"]["children"] == ["cluster"]
    assert started.listed["cluster"]["hosts"] == ["localhost"]
    assert started.listed["database"]["hosts"] == [f"{started.name}-db"]
    assert started.listed["engines"]["hosts"] == [f"{started.name}-engines"]
    shared = started.inventory / "group_vars" / "production"
    assert shared.readlink() == Path("../../production/group_vars/production")
    for folder in Path(started.variables["athena_state_dir"]).parents[:2]:
        assert folder.stat().st_mode & 0o777 == 0o755
    assert run("git", "status", "--porcelain", "--", "inventory") == ""


def test_ansible_reaches_every_host(started: Trial) -> None:
    said = run("ansible", "--inventory", started.inventory, "production", "--module-name", "ansible.builtin.ping")
    assert said.count("SUCCESS") == 3


def test_the_database_host_is_bare_and_can_install_postgresql(started: Trial) -> None:
    assert "VERSION_CODENAME=trixie" in started.on("db", "cat", "/etc/os-release")
    policy = started.on("db", "apt-cache", "policy", "postgresql")
    assert "Installed: (none)" in policy
    assert re.search(r"Candidate: 17\b", policy)
    assert started.on("db", "systemctl", "is-system-running") == "running"


async def test_both_engines_have_the_model_and_auto_goes_from_one_to_the_other(started: Trial, tmp_path: Path) -> None:
    model = started.variables["athena_backends"][0]["model_name"]
    (mlx,), (ollama,) = started.variables["athena_mlx_addresses"], started.variables["athena_ollama_addresses"]
    backend = Backend(model_name=model, backend_type=BackendType.AUTO, endpoint_url=f"http://{mlx}:8080")
    known = tmp_path / "router.json"
    known.write_bytes(msgspec.json.encode(Snapshot(version=1, routes={model: (backend,)}, complete=True)))
    settings = {"admin_api_url": "http://127.0.0.1:9", "ollama_url": f"http://{ollama}:11434"}
    async with LLMRouter(RouterSettings.model_validate({**settings, "router_state_file": known})) as router:

        async def who_answers() -> str:
            return str((await router.generate(model=model, prompt="What is 2+2?", max_tokens=4))["backend"])

        assert await who_answers() == "mlx"
        started.on("engines", "systemctl", "stop", "mlx")
        try:
            assert await who_answers() == "ollama"
        finally:
            started.on("engines", "systemctl", "start", "mlx")


@pytest.mark.parametrize(
    ("engine", "path", "model"),
    [("mlx", "8080/v1/completions", "default_model"), ("ollama", "11434/api/generate", "tiny")],
)
def test_a_killed_engine_comes_back(started: Trial, engine: str, path: str, model: str) -> None:
    killed = started.on("engines", "systemctl", "show", "--property=MainPID", "--value", engine)
    started.on("engines", "systemctl", "kill", "--signal=KILL", engine)
    url = f"http://{started.variables[f'athena_{engine}_addresses'][0]}:{path}"
    question = {
        "model": model,
        "prompt": "Are you there?",
        "max_tokens": 4,
        "stream": False,
        "options": {"num_predict": 4},
    }
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.post(url, json=question, timeout=10).raise_for_status()
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        else:
            break
    assert started.on("engines", "systemctl", "show", "--property=MainPID", "--value", engine) != killed


def test_pods_reach_engines_and_database_and_come_with_the_node_address(started: Trial, pod: str) -> None:
    for address, port in (
        (started.variables["athena_mlx_addresses"][0], 8080),
        (started.variables["athena_ollama_addresses"][0], 11434),
    ):
        started.kubectl("exec", pod, "--", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}")
    tell_caller = "import socket; print(socket.create_server(('', 5432)).accept()[1][0])"
    with subprocess.Popen(
        ["docker", "exec", f"{started.name}-db", "timeout", "30", "python3", "-c", tell_caller],
        stdout=subprocess.PIPE,
        text=True,
    ) as listening:
        connect = f"until exec 3<>/dev/tcp/{started.variables['athena_database_address']}/5432; do sleep 0.2; done"
        started.kubectl("exec", pod, "--", "bash", "-c", f"({connect}) 2>/dev/null")
        assert listening.communicate()[0].strip() == started.variables["athena_node_address"]


def test_this_machine_reaches_a_port_of_the_node_from_a_network_of_clients(started: Trial, pod: str) -> None:
    port = started.kubectl("get", "service", pod, "--output", "jsonpath={.spec.ports[0].nodePort}")
    node = started.variables["athena_node_address"]
    ask = f"exec 3<>/dev/tcp/{node}/{port}; echo CLIENT LIST >&3; head -n 2 <&3"
    seen = re.search(r" addr=([0-9.]+):", run("bash", "-c", ask))
    assert seen
    networks = map(ip_network, started.variables["athena_client_networks"])
    assert any(ip_address(seen[1]) in network for network in networks), seen[1]
