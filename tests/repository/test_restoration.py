"""What a restoration leaves in lock and ledger: its own plays, with a program of backups that only says what it did."""

import json
from pathlib import Path

import pytest
import yaml
from ledger_environment import CONTENT, NOTHING, Ended, Environment, Tasks
from loading import ROOT

MADE = {"id": "athena-2", "schema": "a"}
RESTORED = {"id": "athena-1", "previous": "athena_before_1"}
SCHEMA: Tasks = [{"ansible.builtin.set_fact": {"schema_after": "a", "schema_ahead": False, "schema_pending": []}}]
FAILURE: Tasks = [{"ansible.builtin.fail": {"msg": "of a test"}}]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment with a release in force."""
    return Environment(tmp_path)


def restore(
    environment: Environment,
    refused: str = "nothing",
    code: int = 1,
    made: dict[str, str] = MADE,
    **instead: Tasks,
) -> Ended:
    """Restore a backup, with a program that ends one of `make` and `restore` with a code, or `made` something else.

    What is declared to the registry is in the file `declared`.
    """
    program = environment.folder / "athena-backup"
    answers = "".join(
        f"{name}) echo '{json.dumps(said)}' ;; " for name, said in (("make", made), ("restore", RESTORED))
    )
    program.write_text(
        f'#!/bin/sh\ncase $1 in {refused}) echo "it is damaged" >&2; exit {code} ;; {answers} *) exit 1 ;; esac\n'
    )
    registry = environment.folder / "athena"
    told = {"changed": True, "changes": ["phi3:mini registered"]}
    registry.write_text(f"#!/bin/sh\ncat >{environment.folder}/declared\necho '{json.dumps(told)}'\n")
    for file in (program, registry):
        file.chmod(0o755)
    plays = yaml.safe_load((ROOT / "playbooks" / "restore.yml").read_text())
    left_out = dict.fromkeys(("refuse_unreachable", "tell_release", "prove"), NOTHING)
    return environment.run(
        plays,
        {**left_out, "schema": SCHEMA, **instead},
        release_action="restore",
        release_operand=RESTORED["id"],
        backup_program=str(program),
        registration_runner="host",
        registration_athena=str(registry),
        registration_drain_job={},
    )


def test_it_is_recorded_with_its_steps_and_with_what_was_there_before(environment: Environment) -> None:
    ended = restore(environment)
    assert (ended.verdict, ended.locked) == (0, False), ended.said
    assert "athena-1 is in place" in ended.said
    told = ended.last
    assert (told["id"], told["action"], told["outcome"], told["restores"]) == ("r2", "restore", "in force", "r1")
    assert [step["step"] for step in told["steps"] if "done" in step] == [
        "backup",
        "swap",
        "schema",
        "backends",
        "proof",
    ]
    assert json.loads((environment.folder / "declared").read_text()) == CONTENT["backends"]
    assert told["restored"] == {
        "backup": "athena-1",
        "previous": "athena_before_1",
        "made_before": "athena-2",
        "not_backed_up": "",
    }
    assert (told["schema_before"], told["backup"]) == ("a", None)
    assert environment.in_force() == CONTENT


def test_a_database_that_cannot_be_backed_up_is_replaced_all_the_same_and_that_is_told(
    environment: Environment,
) -> None:
    ended = restore(environment, made={"id": "", "why": "pg_dump failed: invalid page"})
    assert (ended.verdict, ended.locked) == (0, False)
    assert "Nothing of the database before could be backed up (pg_dump failed: invalid page)" in ended.said
    assert "What was there before is the database athena_before_1 on that host, until somebody drops it." in ended.said
    assert (ended.last["restored"]["made_before"], ended.last["restored"]["not_backed_up"]) == (
        "",
        "pg_dump failed: invalid page",
    )


def test_where_the_backup_is_refused_nothing_was_changed_and_the_lock_is_free(environment: Environment) -> None:
    ended = restore(environment, refused="restore")
    assert (ended.verdict, ended.last["outcome"], ended.locked) == (1, "failed, nothing changed", False)
    assert "it is damaged. The database is as it was." in ended.said


def test_what_fails_after_the_swap_is_told_with_the_step_in_which_it_stopped(environment: Environment) -> None:
    ended = restore(environment, schema=FAILURE)
    assert (ended.verdict, ended.last["id"], ended.locked) == (4, "r1", True)
    journal = json.loads((environment.state / "lock" / "journal.json").read_text())
    assert [step["step"] for step in journal["steps"]] == ["backup", "swap", "schema"]
    assert journal["content"] == CONTENT
    assert journal["record"]["restored"]["previous"] == "athena_before_1"
    assert "of a test. The backup athena-1 is in the place of the database." in ended.said
    assert (
        "is the database athena_before_1 on that host, until somebody drops it, and the backup athena-2." in ended.said
    )
    assert "./deploy.sh ENVIRONMENT deploy --go-on" in ended.said


@pytest.mark.parametrize("code", [4, 137], ids=["its word", "its death"])
def test_where_nobody_knows_which_database_is_in_place_the_lock_stays_and_has_what_is_known(
    environment: Environment, code: int
) -> None:
    ended = restore(environment, refused="restore", code=code)
    assert (ended.verdict, ended.last["id"], ended.locked) == (4, "r1", True)
    assert "The database is as it was" not in ended.said
    assert "it is damaged. Whether the backup athena-1 is in the place of the database is not known." in ended.said
    assert "The backup athena-2 has what was there before." in ended.said
    journal = json.loads((environment.state / "lock" / "journal.json").read_text())
    assert [step["step"] for step in journal["steps"]] == ["backup", "swap"]
    assert journal["record"]["restored"] == {
        "backup": "athena-1",
        "previous": None,
        "made_before": "athena-2",
        "not_backed_up": "",
    }
