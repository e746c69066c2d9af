"""Whether the services have to be given new passwords on the way back, by real runs of the role that takes the lock."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import run_plays


def leave_a_lock(folder: Path, action: str) -> None:
    """Leave the lock of a run whose processes are gone."""
    who = {"owner": "alice", "pid": 1, "processes": {"1": "never"}, "since": "2026-01-01T00:00:00+00:00"}
    steps = [{"step": "hosts", "at": who["since"]}]
    journal = {"action": action, "operand": "", **who, "steps": steps, "record": {}, "took_over": []}
    (folder / "lock").mkdir(parents=True)
    (folder / "lock" / "journal.json").write_text(json.dumps({**journal, "host": socket.gethostname()}))


@pytest.mark.parametrize(("left_by", "has_moved"), [("rotate", True), ("update", False)])
def test_a_deployment_that_goes_on_with_a_killed_rotation_knows_that_the_database_has_its_passwords(
    tmp_path: Path, left_by: str, has_moved: bool
) -> None:
    leave_a_lock(tmp_path / "state", left_by)
    (tmp_path / "exchange").mkdir()
    inventory = tmp_path / "hosts.yml"
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    groups: dict[str, Any] = {"cluster": {"hosts": {"controller": local}}, "database": {"hosts": {"db": local}}}
    inventory.write_text(yaml.safe_dump(groups))

    def told(when: str) -> dict[str, Any]:
        return {"ansible.builtin.debug": {"msg": f"{when}: {{{{ athena_passwords_moved }}}}"}}

    variables = {
        "release_action": "deploy",
        "release_state_dir": str(tmp_path / "state"),
        "release_exchange": str(tmp_path / "exchange"),
        "release_needs_packages": False,
    }
    begin = [
        {"ansible.builtin.include_role": {"name": "release", "tasks_from": "ledger"}},
        {"ansible.builtin.include_role": {"name": "release", "tasks_from": "begin"}},
        told("before the database"),
    ]
    database = [{"ansible.builtin.set_fact": {"athena_passwords_are_known": True}}]
    secrets = [str(ROOT / "group_vars" / "cluster" / "secrets.yml")]
    plays = [
        {"hosts": "cluster", "gather_facts": False, "vars_files": secrets, "tasks": begin},
        {"hosts": "database", "gather_facts": False, "tasks": database},
        {"hosts": "cluster", "gather_facts": False, "vars_files": secrets, "tasks": [told("after it")]},
    ]
    done = run_plays(tmp_path, plays, inventory=inventory, variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Going on where the '{left_by}'" in done.stdout
    assert "before the database: False" in done.stdout
    assert f"after it: {has_moved}" in done.stdout
