"""The collector as it runs on a node of a cluster, but for what it asks the API server: there is none here."""

import json
import os
import shlex
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from caller_on_the_host import Caller
from loading import load
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


def test_the_lines_of_a_pod_are_found(config: dict[str, Any], caller: Caller, host: Host) -> None:
    del config["processors"]["k8s_attributes"]
    config["service"]["pipelines"]["logs"]["processors"].remove("k8s_attributes")
    now = datetime.now(UTC).isoformat()
    said = json.dumps({"event": "listening", "level": "info", "service": "proxy", "request_id": "of-a-pod"})
    for path, content in (
        ("/var/tmp/node.yaml", yaml.safe_dump(config)),  # noqa: S108
        (f"/var/log/pods/{POD}/athena-model-proxy/0.log", f"{now} stdout F {said}\n"),
        (f"/var/log/pods/others_{POD}/others/0.log", f"{now} stdout F nobody asked for this\n"),
    ):
        place = f"mkdir -p $(dirname {path}) /var/tmp/node && cat >{path}"
        host.check_output("printf %%s %s | sh -c %s", content, place)
    command = "/opt/athena/log-collector/current/bin/otelcol --config=file:/var/tmp/node.yaml"
    host.check_output(
        f"systemd-run --unit node-{time.time_ns()} --setenv NODE_NAME=node-1 {shlex.join(command.split())}"
    )
    lines = caller.found('{namespace="athena"}')
    assert [(labels["app"], labels["host"], labels["service"], text) for labels, _, text in lines] == [
        ("athena-model-proxy", "node-1", "proxy", said)
    ]
    assert lines[0][0]["pod"] == "athena-model-proxy-7d9f"
    assert lines[0][0]["request_id"] == "of-a-pod"
    assert caller.lines('{namespace=~".+"} |= "nobody asked"') == []
