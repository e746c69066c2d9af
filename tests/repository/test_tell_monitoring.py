"""What a deployment and `status` tell the monitoring host, on hosts that are this machine and one that is away."""

import json
import socket
import sys
from collections.abc import Sequence
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
RELEASE = {"id": "r3", "outcome": "in force", "until": "2026-03-01T12:00:00+00:00", "content": CONTENT}
KILLED = {
    "action": "deploy",
    "operand": "",
    "owner": "somebody",
    "host": socket.gethostname(),
    "pid": 0,
    "processes": {},
    "since": "2026-03-01T13:00:00+00:00",
    "git": {},
    "steps": [],
    "record": {},
    "took_over": [],
}
STATES = {
    "proxy": {"wanted": 2, "ready": 1, "drift": []},
    "admin": {"wanted": 2, "ready": 2, "drift": ["another image"]},
}
# Nothing listens on the port `discard`.
AWAY = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}


def ledger(state: Path) -> Path:
    """Return the folder of the ledger in that of the state."""
    return state / "ledger"


def run(folder: Path, hosts: dict[str, Any], tasks: list[dict[str, Any]], **variables: Any) -> list[str]:
    """Run tasks as a play on the cluster's controller; return what the monitoring hosts were not told."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    monitoring = {name: local | of_it for name, of_it in hosts.items()}
    inventory = {"cluster": {"hosts": {"localhost": local}}, "monitoring": {"hosts": monitoring}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    if not (folder / "group_vars").exists():
        (folder / "group_vars").symlink_to(ROOT / "group_vars")
    ledger(folder / "state").mkdir(parents=True, exist_ok=True)
    (ledger(folder / "state") / "r3.json").write_text(json.dumps(RELEASE))
    (folder / "state" / ".athena-environment").touch()
    note = {
        "content": "{{ monitoring_problems | default([]) | to_json }}",
        "dest": str(folder / "problems"),
        "mode": "0600",
    }
    play = {
        "hosts": "cluster",
        "gather_facts": False,
        "vars": {
            "athena_release_figures_dir": str(folder / "told"),
            "athena_state_dir": str(folder / "state"),
            **variables,
        },
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


def looked(*unseen: str, meanwhile: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Return the tasks of `status` that find the release and tell; between them what was seen, and what was not."""
    in_force = {"ansible.builtin.include_role": {"name": "release", "tasks_from": "in_force"}}
    report = yaml.safe_load((TASKS / "cluster/report.yml").read_text())
    [tell] = [task for task in report if task["name"] == "Tell the monitoring host"]
    tell["ansible.builtin.include_tasks"] = str(TASKS / "cluster/tell_look.yml")
    seen = {
        "status_states": STATES,
        "status_external_services": {"ollama": {"drift": ["Service is not there"]}},
        "status_registry": {"drift": []},
        "status_unseen": unseen,
        "athena_cluster_problem": "",
    }
    return [in_force, {"ansible.builtin.set_fact": seen}, *meanwhile, tell]


def destroyed() -> list[dict[str, Any]]:
    """Return the task of `destroy` that tells."""
    plays = yaml.safe_load((ROOT / "playbooks/destroy.yml").read_text())
    named = "Have the monitoring host expect nothing of them"
    [tell] = [task for play in plays for task in play["tasks"] if task["name"] == named]
    tell["ansible.builtin.include_tasks"] = str(TASKS / "tell_monitoring.yml")
    return [tell]


def lines_of(told: Path) -> list[str]:
    return (told / "athena_release.prom").read_text().splitlines()


def replicas(told: Path) -> list[str]:
    return [line for line in lines_of(told) if line.startswith("athena_release_replicas")]


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


def test_a_deployment_that_could_not_look_at_the_pods_says_why_nothing_was_told_of_them(
    tmp_path: Path, told: Path
) -> None:
    kept = {"content": "{{ athena_untold | to_json }}", "dest": str(told / "untold"), "mode": "0600"}
    run(tmp_path, {"here": {}}, [*deployed(), {"ansible.builtin.copy": kept}])
    [cause] = json.loads((told / "untold").read_text())
    assert cause.startswith("of pods and drift nothing was told: The cluster of ")
    assert "does not answer" in cause


def test_of_what_was_told_nothing_is_said(tmp_path: Path, told: Path) -> None:
    kept = {"content": "{{ athena_untold | to_json }}", "dest": str(told / "untold"), "mode": "0600"}
    run(tmp_path, {"here": {}}, [{"ansible.builtin.copy": kept}])
    assert json.loads((told / "untold").read_text()) == [], "where nothing was to be told"
    run(tmp_path, {"here": {}}, [*looked(), {"ansible.builtin.copy": kept}])
    assert json.loads((told / "untold").read_text()) == []


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


def test_of_pods_that_prometheus_does_not_ask_it_is_not_told_how_many_there_are_to_be(
    tmp_path: Path, told: Path
) -> None:
    run(tmp_path, {"here": {}}, deployed(), athena_monitored_pods={"proxy": {}})
    assert replicas(told) == ['athena_release_replicas{service="proxy"} 3']
    run(tmp_path, {"here": {}}, deployed(), athena_monitoring_reads_cluster=False)
    assert replicas(told) == []
    assert 'athena_release_version_info{service="proxy",version="0.1.0+g1234"} 1' in lines_of(told)


@pytest.mark.parametrize(
    ("seen", "left"),
    [
        ({}, ["admin", "proxy", "orchestrator"]),
        ({"athena_monitored_pods": {"proxy": {}}}, ["proxy"]),
        ({"athena_monitoring_reads_cluster": False}, []),
    ],
    ids=["all", "one", "none"],
)
def test_setting_up_forgets_what_is_compared_with_pods_that_are_not_asked(
    tmp_path: Path, told: Path, seen: dict[str, Any], left: list[str]
) -> None:
    other = 'athena_release_version_info{service="proxy",version="0.1.0+g1234"} 1'
    before = [*(f'athena_release_replicas{{service="{name}"}} 2' for name in CONTENT["replicas"]), other]
    (told / "athena_release.prom").write_text("\n".join(before) + "\n")
    plays = yaml.safe_load((ROOT / "playbooks/monitoring/metrics.yml").read_text())
    named = "Forget how many pods there are to be where none are asked"
    tasks = [task for play in plays for task in play["tasks"] if task["name"] == named]
    assert len(tasks) == 1
    run(tmp_path, {"here": {}}, tasks, **seen)
    assert [line.split('"')[1] for line in replicas(told)] == left
    assert lines_of(told)[len(left) :] == [other]


def test_of_a_service_whose_pods_nobody_has_counted_there_are_to_be_two(tmp_path: Path, told: Path) -> None:
    one = {**RELEASE, "content": {**CONTENT, "replicas": {"orchestrator": 3}}}
    tasks = [{"ansible.builtin.set_fact": {"release_closed": {"active": one}}}, *deployed()[1:]]
    assert run(tmp_path, {"here": {}}, tasks) == []
    assert replicas(told) == [
        'athena_release_replicas{service="admin"} 2',
        'athena_release_replicas{service="proxy"} 3',
        'athena_release_replicas{service="orchestrator"} 3',
    ]


def test_a_look_that_has_no_figures_to_tell_says_so_and_goes_on_to_its_report(tmp_path: Path, told: Path) -> None:
    [problem] = run(tmp_path, {"here": {}}, looked(), athena_release_figures="{{ 1 / 0 }}")
    assert problem.startswith("the monitoring host was not told how it is: ")
    assert "division by zero" in problem
    assert list(told.iterdir()) == []


def test_destroying_takes_back_what_was_told(tmp_path: Path, told: Path) -> None:
    assert run(tmp_path, {"here": {}}, [*looked(), *destroyed()]) == []
    for file in ("athena_release.prom", "athena_status.prom"):
        assert all(line.startswith("#") for line in (told / file).read_text().splitlines())


@pytest.mark.parametrize(
    ("unseen", "known"), [("services", False), ("external_services", False), ("redis", False), ("callers", True)]
)
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
        'athena_drift{service="ollama"} 1',
        'athena_drift{service="registry"} 0',
    }
    assert (told / "athena_release.prom").exists()


def written(file: Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tasks that write a file of the state, as another run does."""
    folder = {"path": str(file.parent), "state": "directory", "mode": "0700"}
    copied = {"content": json.dumps(content), "dest": str(file), "mode": "0600"}
    return [{"ansible.builtin.file": folder}, {"ansible.builtin.copy": copied}]


def test_a_look_beside_which_a_deployment_has_ended_does_not_tell_of_what_was_before(
    tmp_path: Path, told: Path
) -> None:
    ended = written(ledger(tmp_path / "state") / "r4.json", {**RELEASE, "id": "r4"})
    assert run(tmp_path, {"here": {}}, looked(meanwhile=ended)) == []
    assert list(told.iterdir()) == []
    assert run(tmp_path, {"here": {}}, looked()) == [], "the next look tells"
    assert 'release="r4"' in (told / "athena_release.prom").read_text()


def test_a_look_beside_a_run_that_is_under_way_leaves_it_to_that_to_tell(tmp_path: Path, told: Path) -> None:
    lock = {"ansible.builtin.include_role": {"name": "release", "tasks_from": "lock"}}
    run(tmp_path, {"here": {}}, looked(meanwhile=[lock]), release_action="rotate")
    assert list(told.iterdir()) == []


def test_a_look_tells_of_what_a_run_that_was_killed_has_left(tmp_path: Path, told: Path) -> None:
    run(tmp_path, {"here": {}}, [*written(tmp_path / "state/lock/journal.json", KILLED), *looked()])
    assert (told / "athena_status.prom").exists()


def test_a_host_that_is_away_is_named_and_keeps_nothing_from_its_end(tmp_path: Path, told: Path) -> None:
    [problem] = run(tmp_path, {"away": AWAY, "here": {}}, deployed())
    assert problem.startswith("away was not told")
    assert (told / "athena_release.prom").exists()


def test_a_host_that_was_not_set_up_is_told_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, {"here": {}}, deployed()) == []
    assert not (tmp_path / "told").exists()
