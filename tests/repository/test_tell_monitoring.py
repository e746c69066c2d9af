"""What a deployment and `status` tell the monitoring host, on hosts that are this machine and one that is away."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import run_plays

TASKS = ROOT / "playbooks/tasks"
RELEASE = {"id": "r3", "until": "2026-03-01T12:00:00+00:00", "content": {"version": "0.1.0+g1234"}}
STATES = {
    "proxy": {"wanted": 2, "ready": 1, "drift": []},
    "admin": {"wanted": 2, "ready": 2, "drift": ["another image"]},
}
# Nothing listens on the port `discard`.
AWAY = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}


def run(folder: Path, hosts: dict[str, Any], tasks: list[dict[str, Any]]) -> list[str]:
    """Run tasks as a play on the cluster's controller; return what the monitoring hosts were not told."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    monitoring = {name: local | variables for name, variables in hosts.items()}
    inventory = {"cluster": {"hosts": {"localhost": local}}, "monitoring": {"hosts": monitoring}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    (folder / "group_vars").symlink_to(ROOT / "group_vars")
    note = {"content": "{{ monitoring_problems | to_json }}", "dest": str(folder / "problems"), "mode": "0600"}
    play = {
        "hosts": "cluster",
        "gather_facts": False,
        "vars": {"athena_release_figures_dir": str(folder / "told")},
        "tasks": [*tasks, {"ansible.builtin.copy": note}],
    }
    done = run_plays(folder, [play], inventory=folder / "hosts.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    problems: list[str] = json.loads((folder / "problems").read_text())
    return problems


def deployed() -> list[dict[str, Any]]:
    """Return the tasks at the end of a deployment."""
    return [
        {"ansible.builtin.set_fact": {"release_closed": {"active": RELEASE}}},
        {"ansible.builtin.include_tasks": str(TASKS / "cluster/tell_release.yml")},
    ]


def looked() -> list[dict[str, Any]]:
    """Return the task of `status` that tells, with what was seen before it."""
    report = yaml.safe_load((TASKS / "cluster/report.yml").read_text())
    [tell] = [task for task in report if task["name"] == "Tell the monitoring host"]
    tell["ansible.builtin.include_tasks"] = str(TASKS / "tell_monitoring.yml")
    seen = {
        "release_known": {"active": RELEASE},
        "status_report": {"services": STATES, "redis": {}},
        "athena_cluster_problem": "",
    }
    return [{"ansible.builtin.set_fact": seen}, tell]


@pytest.fixture
def told(tmp_path: Path) -> Path:
    folder = tmp_path / "told"
    folder.mkdir()
    return folder


def test_a_deployment_tells_which_release_is_in_force(tmp_path: Path, told: Path) -> None:
    assert run(tmp_path, {"here": {}}, deployed()) == []
    lines = (told / "athena_release.prom").read_text().splitlines()
    assert 'athena_release_info{release="r3",revision="0.1.0+g1234"} 1' in lines
    assert "athena_release_timestamp_seconds 1772366400" in lines


def test_a_look_tells_of_pods_and_drift(tmp_path: Path, told: Path) -> None:
    assert run(tmp_path, {"here": {}}, looked()) == []
    lines = (told / "athena_status.prom").read_text().splitlines()
    assert {line for line in lines if "{" in line} == {
        'athena_replicas_wanted{service="proxy"} 2',
        'athena_replicas_ready{service="proxy"} 1',
        'athena_drift{service="proxy"} 0',
        'athena_replicas_wanted{service="admin"} 2',
        'athena_replicas_ready{service="admin"} 2',
        'athena_drift{service="admin"} 1',
    }
    assert (told / "athena_release.prom").exists()


def test_a_host_that_is_away_is_named_and_keeps_nothing_from_its_end(tmp_path: Path, told: Path) -> None:
    [problem] = run(tmp_path, {"away": AWAY, "here": {}}, deployed())
    assert problem.startswith("away was not told")
    assert (told / "athena_release.prom").exists()


def test_a_host_that_was_not_set_up_is_told_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, {"here": {}}, deployed()) == []
    assert not (tmp_path / "told").exists()
