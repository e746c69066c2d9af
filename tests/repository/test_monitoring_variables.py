"""What the monitoring of an environment makes of the inventory's settings."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import run_plays

LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}


def value(folder: Path, group: str, name: str, **variables: Any) -> Any:
    """Return a variable's value on the host of a group, where these are set as on the command line."""
    hosts = {"cluster": "localhost", "monitoring": "monitoring-1"}
    inventory = {one: {"hosts": {host: LOCAL}} for one, host in hosts.items()}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    (folder / "group_vars").symlink_to(ROOT / "group_vars")
    kept = folder / "value.json"
    copy = {"content": f"{{{{ {{'value': {name}}} | to_json }}}}", "dest": str(kept), "mode": "0600"}
    play = {"hosts": group, "gather_facts": False, "tasks": [{"ansible.builtin.copy": copy}]}
    done = run_plays(folder, [play], inventory=folder / "hosts.yml", variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(kept.read_text())["value"]


@pytest.mark.parametrize(("logs", "url"), [("false", ""), ("true", "http://127.0.0.1:3100")])
def test_grafana_asks_a_loki_only_where_there_is_one(logs: str, url: str, tmp_path: Path) -> None:
    assert value(tmp_path, "monitoring", "grafana_loki_url", monitoring_with_logs=logs) == url


def test_the_firewall_of_a_mac_guards_what_prometheus_asks_there() -> None:
    defaults = {
        role: yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text())
        for role in ("agent", "log_collector", "mac_host")
    }
    asked = {defaults["agent"]["agent_port"], defaults["log_collector"]["log_collector_metrics_port"]}
    assert asked <= set(defaults["mac_host"]["mac_host_engine_ports"])


@pytest.mark.parametrize(("asked", "let_in"), [("false", False), ("true", True)])
def test_collectors_of_nodes_are_read_only_where_pods_are_asked(asked: str, let_in: bool, tmp_path: Path) -> None:
    reader = value(tmp_path, "cluster", "log_collector_metrics_reader", athena_monitoring_reads_cluster=asked)
    assert bool(reader) is let_in


@pytest.mark.parametrize(
    ("exporters", "read"),
    [
        ({}, []),
        (
            {"node-1": "192.0.2.11:9100", "node-2": "[2001:db8::2]:9101"},
            [
                {"address": "192.0.2.11:9100", "labels": {"instance": "node-1:9100"}},
                {"address": "[2001:db8::2]:9101", "labels": {"instance": "node-2:9101"}},
            ],
        ),
    ],
)
def test_exporters_of_other_hosts_are_read_and_not_asked_for_their_health(
    exporters: dict[str, str], read: list[dict[str, Any]], tmp_path: Path
) -> None:
    got = value(
        tmp_path,
        "monitoring",
        "{'node': prometheus_targets.node, 'probes': prometheus_probes}",
        athena_monitored_node_exporters=exporters,
    )
    own = {"address": "127.0.0.1:9100", "labels": {"instance": "monitoring-1:9100"}}
    assert got == {"node": [own, *read], "probes": []}
