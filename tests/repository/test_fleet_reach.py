"""A Mac that nobody can ask is refused: it would answer itself, be proven, and then fail every request."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import run_plays

NAME = "Refuse a Mac that lets nobody in"
PORTS = [11434, "8080:8099"]


def the_task() -> dict[str, Any]:
    """Return the role's own task."""
    tasks = yaml.safe_load((ROOT / "roles/fleet/tasks/judge.yml").read_text())
    return next(task for outer in tasks for task in outer.get("block", []) if task["name"] == NAME)


@pytest.mark.parametrize(
    ("changed", "is_refused"),
    [
        ({}, True),
        ({"address": "192.0.2.31"}, True),
        ({"networks": ["192.0.2.0/24"]}, False),
        ({"ports": []}, False),
        ({"is_mac": False}, False),
        ({"asked": []}, False),
        ({"address": "127.0.0.1"}, False),
        ({"address": "localhost"}, False),
        ({"connection": "local"}, False),
    ],
)
def test_a_mac_that_lets_nobody_in_is_refused_unless_nobody_asks_from_elsewhere(
    changed: dict[str, Any], is_refused: bool, tmp_path: Path
) -> None:
    case: dict[str, Any] = {
        "address": "mac-1.example.internal",
        "networks": [],
        "ports": PORTS,
        "is_mac": True,
        "asked": [{"name": "llama", "engine": "mlx", "port": 8080}],
        "connection": "ssh",  # which an assertion never uses
        **changed,
    }
    play = {
        "hosts": "mac-1",
        "gather_facts": False,
        "vars": {
            "fleet_is_mac": case["is_mac"],
            "fleet_addresses": {"mac-1": case["address"]},
            "fleet_wanted": {
                "asked": case["asked"],
                "mac_host": {"engine_ports": case["ports"], "engine_networks": case["networks"]},
            },
        },
        "tasks": [the_task()],
    }
    variables = {"ansible_connection": case["connection"]}
    ran = run_plays(tmp_path, [play], inventory="mac-1,", variables=variables)
    assert (ran.returncode != 0) is is_refused, ran.stdout + ran.stderr
    assert ("name in mac_host_engine_networks" in " ".join((ran.stdout + ran.stderr).split())) is is_refused, ran.stdout
