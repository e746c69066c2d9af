"""A run that another one overtakes between its first look at the ledger and the lock: two real runs of the role."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT

PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"


def role(entry: str, **variables: Any) -> dict[str, Any]:
    """Return the task that enters the role."""
    return {"ansible.builtin.include_role": {"name": "release", "tasks_from": entry}, "vars": variables}


def play(folder: Path, name: str, tasks: list[dict[str, Any]]) -> Path:
    """Write a play on this machine, whose ledger is in the folder."""
    file = folder / f"{name}.yml"
    (folder / name).mkdir()
    variables = {
        "ansible_python_interpreter": sys.executable,
        "release_state_dir": str(folder / "state"),
        "release_exchange": str(folder / name),
        "release_content": {"version": name, "schema": "a"},
    }
    file.write_text(
        yaml.safe_dump(
            [
                {
                    "hosts": "localhost",
                    "connection": "local",
                    "gather_facts": False,
                    "vars": variables,
                    "tasks": tasks,
                }
            ],
            sort_keys=False,
        )
    )
    return file


def run(file: Path) -> subprocess.CompletedProcess[str]:
    """Run a play to its end."""
    return subprocess.run(
        [PLAYBOOK, "--inventory", "localhost,", file],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(("look", "action"), [("ledger", "deploy"), ("target", "rollback")])
def test_it_is_refused_and_the_ledger_is_that_of_the_other(tmp_path: Path, look: str, action: str) -> None:
    whole_run = [role("ledger"), role("begin"), role("finish")]
    before = ["one", "two"] if look == "target" else []  # there is something to go back to
    for name in before:
        assert run(play(tmp_path, name, whole_run)).returncode == 0
    other = play(tmp_path, "other", whole_run)
    overtaken = play(
        tmp_path,
        "overtaken",
        [
            role(look),
            *([] if look == "ledger" else [role("ledger")]),
            {"ansible.builtin.command": {"argv": [str(PLAYBOOK), "--inventory", "localhost,", str(other)]}},
            # As a run does that looks twice: the first look counts.
            *([role("ledger")] if look != "ledger" else []),
            role("begin", release_action=action),
            role("finish"),
        ],
    )
    done = run(overtaken)
    assert done.returncode != 0
    assert "Another run was at work while this one was looking" in done.stdout + done.stderr
    assert (tmp_path / "overtaken" / "verdict").read_text() == "5\n"
    entries = sorted((tmp_path / "state" / "ledger").iterdir())
    assert [json.loads(entry.read_text())["content"]["version"] for entry in entries] == [*before, "other"]
    assert not (tmp_path / "state" / "lock").exists()
