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
CONTENT = {
    "version": "0.1.0+g1234",
    "schema": "93bea4659785",
    "applications": {"admin": {}, "proxy": {"autoscaling": {"min": 3, "max": 9}}, "orchestrator": {"autoscaling": {}}},
    "replicas": {"admin": 2, "proxy": 2, "orchestrator": 1},
    "images": {"service": "athena@sha256:1", "redis": "redis@sha256:2", "orchestrator": "athena@sha256:3"},
}
RELEASE = {"id": "r3", "until": "2026-03-01T12:00:00+00:00", "content": CONTENT}
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
    """Return the tasks at the end of a deployment, to a cluster that does not answer any more."""
    return [
        {"ansible.builtin.set_fact": {"release_closed": {"active": RELEASE}}},
        {"ansible.builtin.include_tasks": str(TASKS / "cluster/tell_release.yml")},
    ]


def looked(*unseen: str) -> list[dict[str, Any]]:
    """Return the task of `status` that tells, with what was seen before it, and what could not be."""
    report = yaml.safe_load((TASKS / "cluster/report.yml").read_text())
    [tell] = [task for task in report if task["name"] == "Tell the monitoring host"]
    tell["ansible.builtin.include_tasks"] = str(TASKS / "tell_monitoring.yml")
    seen = {
        "release_known": {"active": RELEASE},
        "status_states": STATES,
        "status_unseen": unseen,
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
    assert 'athena_release_schema_info{revision="93bea4659785"} 1' in lines
    assert not (told / "athena_status.prom").exists(), "of pods that nobody saw nothing is told"


def test_a_release_says_what_prometheus_compares_with_what_it_sees(tmp_path: Path, told: Path) -> None:
    run(tmp_path, {"here": {}}, deployed())
    lines = (told / "athena_release.prom").read_text().splitlines()
    assert [line for line in lines if line.startswith(("athena_release_replicas", "athena_release_version"))] == [
        'athena_release_replicas{service="admin"} 2',
        'athena_release_replicas{service="proxy"} 3',
        'athena_release_replicas{service="orchestrator"} 1',
        'athena_release_version_info{service="admin",version="0.1.0+g1234"} 1',
        'athena_release_version_info{service="proxy",version="0.1.0+g1234"} 1',
    ]


@pytest.mark.parametrize(("unseen", "known"), [("services", False), ("redis", False), ("callers", True)])
def test_of_pods_that_could_not_be_looked_at_nothing_is_told(
    tmp_path: Path, told: Path, unseen: str, known: bool
) -> None:
    run(tmp_path, {"here": {}}, looked(f"{unseen} could not be looked at: no right"))
    assert (told / "athena_status.prom").exists() is known


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
