"""In which order the hosts of a fleet change: the inventory's, and last those that others copy models from."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import run_plays

LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
HOSTS = ["zebra", "apple", "mango", "beech", "yew", "cedar", "kiwi"]  # so many that chance does not put them in order


def task(name: str) -> dict[str, Any]:
    """Return the playbook's own task of that name."""
    tasks = yaml.safe_load((ROOT / "playbooks/tasks/fleet/begin.yml").read_text())
    return next(task for task in tasks if task["name"] == name)


@pytest.mark.parametrize(
    ("givers", "order"),
    [
        ([], HOSTS),
        (["apple", "beech"], ["zebra", "mango", "yew", "cedar", "kiwi", "apple", "beech"]),
        (HOSTS, HOSTS),
    ],
)
def test_hosts_change_in_the_inventorys_order_and_those_that_give_models_up_last(
    givers: list[str], order: list[str], tmp_path: Path
) -> None:
    inventory = {
        "control_plane": {"hosts": {"localhost": LOCAL}},
        "engines": {"hosts": {host: {**LOCAL, "fleet_given_up": ["a model"] * (host in givers)} for host in HOSTS}},
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
    kept = tmp_path / "order.json"
    play = {
        "hosts": "control_plane",
        "gather_facts": False,
        "vars": {"release_operand": ""},
        "tasks": [
            task("Know in which order the hosts change"),
            {"ansible.builtin.copy": {"content": "{{ fleet_order | to_json }}", "dest": str(kept), "mode": "0600"}},
        ],
    }
    done = run_plays(tmp_path, [play], inventory=tmp_path / "hosts.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(kept.read_text()) == order
