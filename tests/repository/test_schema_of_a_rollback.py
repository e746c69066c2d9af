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


def keep_versions(folder: Path, at: str, back: dict[str, Any]) -> None:
    """Have the versions' commands, with the database at a revision."""
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


def play(folder: Path, tasks: list[dict[str, Any]], variables: dict[str, Any]) -> tuple[str, list[str]]:
    """Run tasks with variables that they may change; return what was said, and who was asked what."""
    always = {
        "ansible_python_interpreter": sys.executable,
        "release_exchange": str(folder / "exchange"),
        "service_package_root": str(folder / "versions"),
        "schema_database_url_file": str(folder / "url"),
    }
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables, "tasks": tasks}]
    done = run_plays(folder, plays, variables=always)
    said, asked = done.stdout + done.stderr, folder / "asked"
    assert asked.exists(), said
    return said, asked.read_text().splitlines()


def decide(folder: Path, at: str, target: dict[str, Any], back: dict[str, Any]) -> tuple[str, list[str]]:
    """Decide with the database at a revision; return what was said, and who was asked what."""
    keep_versions(folder, at, back)
    tasks = [{"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/decide_schema.yml")}]
    known = {"active": SECOND, "releases": [FIRST, SECOND], "left": KILLED, "runs": [FIRST, SECOND, KILLED]}
    return play(folder, tasks, {"release_known": known, "release_target": target})


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


# --- the way back failed as well: whether the release in force may be started --------------


def bring_back(
    folder: Path, where: str, at: str, steps: list[dict[str, Any]], target: dict[str, Any]
) -> tuple[str, list[str]]:
    """Have the schema for the release in force, after the run failed that was to bring the target."""
    keep_versions(folder, at, {"way": "down", "steps": steps})
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks" / where / "schema.yml")},
        {"ansible.builtin.debug": {"msg": "The services are started"}},
    ]
    image_of = {run["content"]["version"]: run for run in (FIRST, SECOND, KILLED)}
    runs = [
        run | {"content": run["content"] | {"images": {"service": version}, "schema": "abc"[int(version) - 1]}}
        for version, run in image_of.items()
    ]
    variables = {
        "release_replaced": SECOND,
        "release_target": target,
        "release_known": {"runs": runs},
        "release_error": "Take the schema back: of a test",
        "schema_image": SECOND["content"]["version"],
        "schema_athena": f"{folder}/versions/{{{{ schema_image }}}}/bin/athena",
        "schema_may_stay_ahead": True,
        "athena_return_is_judged": True,
        "athena_database_is_external": False,
    }
    return play(folder, tasks, variables)


BOTH = pytest.mark.parametrize("where", ["", "cluster"], ids=["one machine", "cluster"])


@BOTH
def test_what_does_not_run_on_the_schema_is_not_started_after_a_rollback_that_failed(
    tmp_path: Path, where: str
) -> None:
    said, asked = bring_back(tmp_path, where, "c", STEPS[:1], FIRST)
    told = " ".join(said.split())
    assert "Release r2 was not started again, because the database is at the revision c" in told
    assert "- c (A table): can be taken back, the release before it does not run on it" in told
    assert "The cause was: Take the schema back: of a test" in told
    assert "this goes back: ./deploy.sh ENVIRONMENT rollback r1" in told
    assert "The services are started" not in said
    assert "3 migrate --back-to b" in asked


@BOTH
def test_what_runs_on_the_schema_is_started_after_a_rollback_that_failed(tmp_path: Path, where: str) -> None:
    said, asked = bring_back(tmp_path, where, "c", [STEPS[0] | {"previous_code_runs": True}], FIRST)
    assert "The services are started" in said
    assert "2 migrate" not in asked  # it stays


@BOTH
def test_what_knows_the_schema_brings_its_own_with_it(tmp_path: Path, where: str) -> None:
    said, asked = bring_back(tmp_path, where, "b", [], FIRST)
    assert "The services are started" in said
    assert asked == ["2 migrate --show"]


def test_only_what_the_run_itself_brought_further_is_taken_down(tmp_path: Path) -> None:
    """What it took down, the release in force brings back; what others left, is judged."""
    replaced = {"release_replaced": SECOND}
    further = {"schema_before": "b", "schema_after": "c", "schema_pending": STEPS[:1], "schema_ahead": False}
    cases = {
        "deployed further": replaced | further,
        "deployed where it was killed": replaced | further | {"schema_pending": []},
        "deployed the first time": {"release_replaced": None} | further,
        "deployed, and failed before": replaced,
        "deployed without the migration": replaced | further | {"schema_ahead": True},
        "rolled back to a newer one": replaced | further | {"release_target": KILLED},
        "rolled back to an older one": replaced | {"release_target": FIRST, "schema_after": "a", "schema_pending": []},
    }
    tasks = [
        task
        for case, variables in cases.items()
        for task in (
            {"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/know_schema.yml"), "vars": variables},
            {"ansible.builtin.debug": {"msg": f"{case}: {{{{ athena_schema_was_to_move }}}}"}},
        )
    ]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    done = run_plays(tmp_path, [play], variables={"ansible_python_interpreter": sys.executable})
    assert {case: f"{case}: True" in done.stdout for case in cases} == {
        "deployed further": True,
        "deployed where it was killed": True,
        "deployed the first time": False,
        "deployed, and failed before": False,
        "deployed without the migration": False,
        "rolled back to a newer one": True,
        "rolled back to an older one": False,
    }
    assert done.stdout.count(": False") == 4
