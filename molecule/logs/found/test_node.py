"""The collector as it runs on a node of a cluster, but for what it asks the API server: there is none here."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from caller_on_the_host import FOUND_WITHIN_SECONDS, Caller
from counters import EXPORTER, NOT_QUEUED, counted
from loading import load
from scratch import wait_until
from testinfra.host import Host

testinfra_hosts = ["ansible://linux"]
OTELCOL = Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", "")) / "programs/otelcol"
POD = "athena_athena-model-proxy-7d9f_11111111-2222-3333-4444-555555555555"


@pytest.fixture
def caller(host: Host) -> Caller:
    return Caller(host)


@pytest.fixture
def config() -> dict[str, Any]:
    settings = {
        "loki_url": "http://127.0.0.1:3100",
        "queue_mib": 16,
        "folder": "/var/tmp/node",  # noqa: S108 of a host that ends with the scenario
        "metrics_address": "127.0.0.1",
        "metrics_port": 18889,
        "traces_endpoint": "",
        "traces_address": "127.0.0.1",
    }
    role = load("roles/log_collector/filter_plugins/log_collector.py")
    whole: dict[str, Any] = role.of_a_node(settings, "test", ["athena"])
    return whole


def test_the_collector_takes_the_whole_configuration(config: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    config["extensions"]["file_storage"]["directory"] = str(tmp_path)
    config["extensions"]["file_storage"]["compaction"]["directory"] = str(tmp_path)
    file.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [OTELCOL, "validate", f"--config=file:{file}"],
        env={"NODE_NAME": "node-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


class Collector:
    """The collector of a node, with a queue of its own, which is started and stopped."""

    def __init__(self, host: Host, config: dict[str, Any]) -> None:
        self._host = host
        del config["processors"]["k8s_attributes"]
        config["service"]["pipelines"]["logs"]["processors"].remove("k8s_attributes")
        self.write("/var/tmp/node.yaml", yaml.safe_dump(config))  # noqa: S108
        host.check_output("mkdir -p /var/tmp/node")

    def write(self, path: str, content: str) -> None:
        """Have a file with this content."""
        self._host.check_output("printf %%s %s | sh -c %s", content, f"mkdir -p $(dirname {path}) && cat >{path}")

    def compress(self, path: str) -> None:
        """Compress a file as kubelet does."""
        gzip = f"gzip --stdout {path} >{path}.tmp && mv {path}.tmp {path}.gz && rm {path}"
        self._host.check_output("sh -c %s", gzip)

    def start(self) -> None:
        """Start it."""
        command = "/opt/athena/log-collector/current/bin/otelcol --config=file:/var/tmp/node.yaml"
        self._host.check_output(f"systemd-run --unit node --collect --setenv NODE_NAME=node-1 {command}")

    def stop(self) -> None:
        """End it; wait until it has."""
        self._host.check_output("systemctl stop node.service")


@pytest.fixture
def node(config: dict[str, Any], host: Host) -> Iterator[Collector]:
    collector = Collector(host, config)
    collector.start()
    yield collector
    collector.stop()


def cri(number: int, name: str) -> str:
    """Return a line as the container runtime writes it, of the hours before: the smaller its number, the older."""
    written = datetime.now(UTC) - timedelta(hours=4) + timedelta(minutes=number)
    return f"{written.isoformat()} stdout F {name} {number}\n"


def test_the_lines_of_a_pod_are_found(node: Collector, caller: Caller) -> None:
    now = datetime.now(UTC).isoformat()
    said = json.dumps({"event": "listening", "level": "info", "service": "proxy", "request_id": "of-a-pod"})
    node.write(f"/var/log/pods/{POD}/athena-model-proxy/0.log", f"{now} stdout F {said}\n")
    node.write(f"/var/log/pods/others_{POD}/others/0.log", f"{now} stdout F nobody asked for this\n")
    lines = caller.found('{namespace="athena"} | request_id="of-a-pod"')
    assert [(labels["app"], labels["host"], labels["service"], text) for labels, _, text in lines] == [
        ("athena-model-proxy", "node-1", "proxy", said)
    ]
    assert lines[0][0]["pod"] == "athena-model-proxy-7d9f"
    assert lines[0][0]["request_id"] == "of-a-pod"
    assert caller.lines('{namespace=~".+"} |= "nobody asked"') == []


def test_what_kubelet_puts_aside_while_the_collector_is_away_is_read_and_once(
    node: Collector, caller: Caller, host: Host
) -> None:
    name = f"aside-{time.time_ns()}"
    folder = f"/var/log/pods/{POD}/{name}"
    pages = ["".join(cri(number, name) for number in range(begin, begin + 60)) for begin in (0, 60, 120, 180)]
    query = f'{{app="{name}"}}'

    def texts() -> list[str]:
        return sorted(text for *_, text in caller.lines(query))

    def expected(end: int) -> list[str]:
        return sorted(f"{name} {number}" for number in range(end))

    # It has read the first half of a file; the other half, and two more files, are written while it is away.
    node.write(f"{folder}/0.log", pages[0])
    caller.found(query, lambda lines: len(lines) >= 60)
    assert texts() == expected(60)
    node.stop()
    node.write(f"{folder}/0.log.20260101-000000", pages[0] + pages[1])
    node.compress(f"{folder}/0.log.20260101-000000")
    node.write(f"{folder}/0.log.20260101-010000", pages[2])
    node.write(f"{folder}/0.log", pages[3])
    node.start()
    caller.found(query, lambda lines: len(lines) >= 240)
    assert texts() == expected(240)

    # What kubelet does next, while it looks.
    host.check_output(f"mv {folder}/0.log {folder}/0.log.20260101-020000")
    node.compress(f"{folder}/0.log.20260101-010000")
    node.write(f"{folder}/0.log", cri(240, name))
    caller.found(query, lambda lines: len(lines) >= 241)
    node.stop()
    node.start()
    node.write(f"{folder}/1.log", cri(241, name))
    caller.found(query, lambda lines: len(lines) >= 242)
    assert texts() == expected(242)
    assert {(labels["app"], labels["pod"]) for labels, *_ in caller.lines(query)} == {(name, "athena-model-proxy-7d9f")}


@pytest.fixture
def without_room(config: dict[str, Any], host: Host) -> Iterator[Collector]:
    """A collector of a node whose queue takes nothing."""
    queue = config["exporters"]["otlp_http/loki"]["sending_queue"]
    del queue["batch"]
    queue |= {"queue_size": 1, "block_on_overflow": False}
    collector = Collector(host, config)
    collector.start()
    wait_until(lambda: bool(host.socket("tcp://127.0.0.1:18889").is_listening), FOUND_WITHIN_SECONDS)
    yield collector
    collector.stop()


def test_lines_for_which_a_queue_has_no_room_are_counted(without_room: Collector, caller: Caller) -> None:
    without_room.write(f"/var/log/pods/{POD}/no-room-{time.time_ns()}/0.log", cri(0, "no-room"))

    def are_counted() -> bool:
        found = counted(caller, "http://127.0.0.1:18889/metrics", NOT_QUEUED)
        return any(value > 0 for labels, value in found.items() if EXPORTER in labels)

    wait_until(are_counted, 2 * FOUND_WITHIN_SECONDS)
