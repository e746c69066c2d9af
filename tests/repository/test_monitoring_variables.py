"""What the monitoring of an environment makes of the inventory's settings."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import run_plays

LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}


def value(folder: Path, group: str, name: str, engines: Sequence[str] = (), **variables: Any) -> Any:
    """Return a variable's value on the host of a group, where these are set as on the command line."""
    hosts = {"cluster": ["localhost"], "monitoring": ["monitoring-1"], "engines": engines}
    inventory = {one: {"hosts": dict.fromkeys(named, LOCAL)} for one, named in hosts.items()}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
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


def test_hosts_are_asked_in_the_inventorys_order_so_that_a_second_run_changes_nothing(tmp_path: Path) -> None:
    engines = ["zebra", "apple", "mango", "beech", "yew", "cedar", "kiwi"]
    asked = value(tmp_path, "monitoring", "athena_monitored.node.hosts", engines, athena_macs=["mango"])
    assert asked == ["monitoring-1", "zebra", "apple", "beech", "yew", "cedar", "kiwi"]


AWAY = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}  # where nothing listens


def first_of_prometheus() -> dict[str, Any]:
    """Return what the play that writes Prometheus' configuration begins with, to be imported from anywhere."""
    metrics = ROOT / "playbooks/monitoring/metrics.yml"
    written = {"name": "prometheus"}
    [tasks] = [
        play["tasks"]
        for play in yaml.safe_load(metrics.read_text())
        if any(task.get("ansible.builtin.import_role") == written for task in play["tasks"])
    ]
    return {"ansible.builtin.import_tasks": str(metrics.parent / tasks[0]["ansible.builtin.import_tasks"])}


def targets(folder: Path, engines: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ask hosts of `engines` what they are, as `monitoring` does, and write down what follows if it is not refused."""
    inventory = {"monitoring": {"hosts": {"monitoring-1": LOCAL}}, "engines": {"hosts": engines}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    (folder / "group_vars").symlink_to(ROOT / "group_vars")
    asked = {"ansible.builtin.setup": {"gather_subset": ["!all", "!min", "platform"]}}
    read = "{'node': prometheus_targets.node, 'agent': prometheus_targets.agent, 'probes': prometheus_probes}"
    kept = {"content": f"{{{{ {read} | to_json }}}}", "dest": str(folder / "targets.json"), "mode": "0600"}
    plays = [
        {"hosts": "monitoring:engines", "gather_facts": False, "tasks": [asked]},
        {
            "hosts": "monitoring",
            "gather_facts": False,
            "tasks": [first_of_prometheus(), {"ansible.builtin.copy": kept}],
        },
    ]
    return run_plays(folder, plays, *arguments, inventory=folder / "hosts.yml")


@pytest.mark.parametrize("arguments", [(), ("--limit", "monitoring-1:linux-1")], ids=["does not answer", "left out"])
def test_prometheus_is_left_as_it_is_where_nobody_knows_what_a_host_of_engines_is(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = targets(tmp_path, {"linux-1": LOCAL, "host-2": AWAY}, *arguments)
    assert done.returncode != 0
    assert "Linux or Macs: host-2. Run it again" in done.stderr
    assert not (tmp_path / "targets.json").exists()


def test_a_host_of_engines_that_is_away_is_what_the_inventory_says(tmp_path: Path) -> None:
    linux, mac = ({**AWAY, "athena_engine_system": system} for system in ("Linux", "Darwin"))
    done = targets(tmp_path, {"linux-1": LOCAL, "linux-2": linux, "mac-1": mac})
    kept = json.loads((tmp_path / "targets.json").read_text())
    assert [one["labels"]["instance"] for one in kept["node"]] == [
        "monitoring-1:9100",
        "linux-1:9100",
        "linux-2:9100",
    ], done.stdout
    assert [one["labels"] for one in kept["agent"]] == [{"instance": "mac-1:8110", "service": "agent"}]
    assert [one["instance"] for one in kept["probes"]] == ["http://mac-1:8110/health"]
