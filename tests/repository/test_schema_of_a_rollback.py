"""Whether a rollback may take the schema back, on one machine: by what the database says, whatever the ledger says.

The commands of the versions that are kept answer what they would of such a database, and note what they were asked.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from loading import ROOT
from playing import run_plays

KEPT = ("1", "2", "3")  # versions, for the schemas a, b and c
STEPS = [
    {"revision": "c", "title": "A table", "reversible": True, "previous_code_runs": False},
    {"revision": "b", "title": "A column", "reversible": True, "previous_code_runs": True},
]


def release(name: str, version: str, schema: str | None) -> dict[str, Any]:
    """Return what the ledger has of a release."""
    times = {"since": f"2026-01-0{version}T00:00:00+00:00", "until": f"2026-01-0{version}T00:01:00+00:00"}
    content = {"version": version, "schema": schema, "schema_stays_ahead": False}
    return {"id": name, "outcome": "in force", "content": content, **times}


FIRST, SECOND = release("r1", "1", "a"), release("r2", "2", "b")
# Version 3 was killed while it migrated: what it had reached is in no ledger.
KILLED = release("", "3", None) | {"outcome": "stopped, not taken back"}


def decide(folder: Path, at: str, target: dict[str, Any], back: dict[str, Any]) -> tuple[str, list[str]]:
    """Decide with the database at a revision; return what was said, and who was asked what."""
    for place, version in enumerate(KEPT):
        program = folder / "versions" / version / "bin" / "athena"
        program.parent.mkdir(parents=True)
        newest = "abc"[place]
        shown = {"current": at, "head": newest, "ahead": at > newest}
        program.write_text(
            f"#!/bin/sh\necho '{version}' \"$*\" >>{folder}/asked\n"
            f"case $2 in --show) echo '{json.dumps(shown)}' ;; --back-to) echo '{json.dumps(back)}' ;; esac\n"
        )
        program.chmod(0o755)
    (folder / "url").write_text("postgresql://nobody@127.0.0.1:9/none\n")
    (folder / "exchange").mkdir()
    known = {"active": SECOND, "releases": [FIRST, SECOND], "left": KILLED, "runs": [FIRST, SECOND, KILLED]}
    variables = {
        "ansible_python_interpreter": sys.executable,
        "release_known": known,
        "release_target": target,
        "release_exchange": str(folder / "exchange"),
        "service_package_root": str(folder / "versions"),
        "schema_database_url_file": str(folder / "url"),
    }
    tasks = [{"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/decide_schema.yml")}]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    done = run_plays(folder, [play], variables=variables)
    said, asked = done.stdout + done.stderr, folder / "asked"
    assert asked.exists(), said
    return said, asked.read_text().splitlines()


@pytest.mark.parametrize(("target", "schema"), [(FIRST, "a"), (SECOND, "b")], ids=["before", "in force"])
def test_what_a_killed_run_has_migrated_is_judged_by_its_code(
    tmp_path: Path, target: dict[str, Any], schema: str
) -> None:
    said, asked = decide(tmp_path, "c", target, {"way": "down", "steps": STEPS})
    assert "The database is at the revision c, and not at b as release r2 left it" in said
    assert f"The schema goes back from c to {schema}, over:\n- c (A table): can be taken back" in said
    assert f"3 migrate --back-to {schema}" in asked


def test_where_only_a_copy_goes_back_it_is_one_from_before_the_run_that_was_killed(tmp_path: Path) -> None:
    said, _ = decide(tmp_path, "c", SECOND, {"way": "stop", "steps": STEPS[:1]})
    assert "because the schema cannot go back to release r2" in said
    assert f"Only a copy of the database from before {KILLED['since']} brings that release back" in said
    assert (tmp_path / "exchange" / "verdict").read_text() == "6\n"


def test_where_the_database_is_as_the_target_left_it_nothing_is_to_be_decided(tmp_path: Path) -> None:
    said, asked = decide(tmp_path, "b", SECOND, {})
    assert "as release r2 left it" not in said
    assert asked == ["2 migrate --show"]
