"""Which tasks of the role fleet find the hosts' environment: those that change a host, none that reach the registry."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import local_play, run_plays

ROLE = ROOT / "roles" / "fleet" / "tasks"


def tasks_of(file: str) -> list[dict[str, Any]]:
    """Return the tasks of a file of the role, those in its blocks one after the other."""
    tasks: list[dict[str, Any]] = yaml.safe_load((ROLE / file).read_text())
    return [inner for task in tasks for inner in (*task.get("block", [task]), *task.get("rescue", []))]


@pytest.mark.parametrize(("file", "name"), [("roll.yml", "Change it"), ("steps/back.yml", "Change it back")])
def test_all_that_changes_a_host_finds_its_environment(file: str, name: str, tmp_path: Path) -> None:
    seen = {"ansible.builtin.shell": f'printf %s "$HTTPS_PROXY" >{tmp_path}/seen', "changed_when": True}
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "change.yml").write_text(json.dumps([{"ansible.builtin.include_tasks": "inner.yml"}]))
    (tmp_path / "steps" / "inner.yml").write_text(json.dumps([seen]))
    change = next(task for task in tasks_of(file) if task.get("name") == name)
    play = local_play(
        change,
        fleet_environment="{{ of_the_inventory }}",
        of_the_inventory={"HTTPS_PROXY": "http://proxy.example.internal"},
        fleet_wanted={},
        fleet_proven={},
    )
    ran = run_plays(tmp_path, [play])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "seen").read_text() == "http://proxy.example.internal"


def test_what_reaches_the_registry_finds_none_of_it() -> None:
    plays = yaml.safe_load((ROOT / "playbooks" / "fleet.yml").read_text())
    assert [play["name"] for play in plays if "environment" in play] == []
    [main] = yaml.safe_load((ROLE / "roll.yml").read_text())
    assert "environment" not in main
    given = [
        task["name"]
        for file in ("roll.yml", "steps/back.yml", "steps/prove.yml", "steps/drain.yml", "steps/put_back.yml")
        for task in tasks_of(file)
        if "environment" in json.dumps(task)
    ]
    assert given == ["Change it", "Change it back"]
