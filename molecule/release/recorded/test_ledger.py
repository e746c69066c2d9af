"""What releases leave on the controller."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

CONTROLLER = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "controller"
STATE = CONTROLLER / "state"


@pytest.fixture
def ledger(host: Host) -> list[dict[str, Any]]:
    """The entries of the ledger, oldest first."""
    names = host.file(str(STATE / "ledger")).listdir()
    entries = [json.loads(host.file(str(STATE / "ledger" / name)).content_string) for name in names]
    return sorted(entries, key=lambda entry: str(entry["id"]))


def test_every_release_is_there_once_with_how_it_ended(ledger: list[dict[str, Any]]) -> None:
    told = [(entry["id"], entry["outcome"], entry["content"]["version"], entry["restores"]) for entry in ledger]
    assert told == [
        ("r1", "in force", "1", None),
        ("r2", "failed, taken back", "2", None),
        ("r3", "in force", "2", None),
        ("r4", "in force", "1", "r1"),
        ("r5", "services removed", "1", None),
    ]
    assert [entry["replaces"] for entry in ledger] == [None, "r1", "r1", "r3", "r4"]
    assert [step["step"] for step in ledger[0]["steps"] if "done" in step] == ["image", "proof"]
    assert ["failed" in step for step in ledger[1]["steps"]] == [True]


def test_the_lock_is_free_and_the_verdict_told(host: Host) -> None:
    assert not host.file(str(STATE / "lock")).exists
    assert host.file(str(CONTROLLER / "exchange" / "verdict")).content_string == "0\n"


def test_only_its_owner_reads_what_is_there(host: Host) -> None:
    assert host.file(str(STATE / "ledger")).mode == 0o700
    assert host.file(str(STATE / "secrets")).mode == 0o700
    assert host.check_output(f"find {STATE}/ledger {STATE}/secrets {STATE}/vault* -type f -perm /077") == ""


def test_each_secret_is_made_once_and_only_what_is_rotated_is_another(host: Host) -> None:
    view = f"ansible-vault view --vault-password-file {STATE}/vault-password {STATE}/vault.yml"
    vault = json.loads(host.check_output(view))
    assert {name: entry["version"] for name, entry in vault.items()} == {"admin-token": 2, "database-owner": 1}
    everything = "".join(path.read_text() for path in (STATE / "ledger").iterdir())
    assert not [name for name, entry in vault.items() if entry["value"] in everything]
    assert host.file(str(STATE / "vault.yml")).content_string.startswith("$ANSIBLE_VAULT")
