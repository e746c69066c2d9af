"""What is half done, what mends it, and how it is told: decided from the runs alone, without a ledger on a disk."""

from pathlib import Path
from typing import Any

import pytest
from loading import load

runs = load("roles/release/module_utils/release_runs.py")
LOCK = Path("/state/lock")


def run(action: str, *before: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the journal of a run in its step 'services' that took over those before it."""
    who = {"owner": "alice", "host": "here", "pid": 7, "since": "noon", "operand": ""}
    steps = [{"step": "hosts", "at": "noon", "done": "noon"}, {"step": "services", "at": "noon"}]
    return {"action": action, **who, "steps": steps, "record": {}, "took_over": list(before), **more}


def release(name: str, outcome: str, action: str = "deploy", **more: Any) -> dict[str, Any]:
    """Return the ledger's entry of a run."""
    entry = run(action, id=name, outcome=outcome, content={"n": name}, restores=None, **more)
    return {key: value for key, value in entry.items() if key not in ("pid", "record")}


@pytest.mark.parametrize(
    ("action", "mended"),
    [
        ("deploy", {"deploy", "update", "rollback", "rotate", "scale", "fleet", "restore", "destroy"}),
        ("update", {"deploy", "update", "rollback", "rotate", "scale", "fleet", "restore", "destroy"}),
        ("rotate", {"deploy", "update", "rollback", "rotate", "scale", "fleet", "restore", "destroy"}),
        ("destroy", {"deploy", "update", "rollback", "rotate", "scale", "fleet", "restore", "destroy"}),
        ("rollback", {"deploy", "update", "rollback"}),
        ("fleet", {"fleet"}),
        ("scale", set()),
        ("restore", set()),
    ],
)
def test_each_action_mends_what_it_brings_to_one_state_and_nothing_else(action: str, mended: set[str]) -> None:
    every = ("deploy", "update", "rollback", "rotate", "scale", "fleet", "restore", "destroy")
    assert {left_by for left_by in every if runs.mends(action, run(left_by))} == mended


@pytest.mark.parametrize(
    ("action", "before", "last", "is_mended"),
    [
        ("rollback", "rotate", "deploy", False),
        ("rollback", "deploy", "rollback", True),
        ("fleet", "deploy", "fleet", False),
        ("rotate", "scale", "rotate", True),
    ],
)
def test_what_a_run_took_over_has_to_be_mended_too(action: str, before: str, last: str, is_mended: bool) -> None:
    assert runs.mends(action, run(last, run(before))) is is_mended


@pytest.mark.parametrize(
    ("since", "is_known"),
    [
        ([], True),
        ([("failed, nothing changed", "deploy")], True),
        ([("in force", "scale")], True),
        ([("failed, taken back", "deploy")], False),
        ([("in force", "rotate")], False),
        ([("in force", "deploy")], False),
    ],
)
def test_what_a_run_left_is_known_until_another_has_mended_it(since: list[tuple[str, str]], is_known: bool) -> None:
    entries = [release("r1", "in force"), release("r2", "stopped, not taken back", "update", schema_before="a")]
    entries += [release(f"r{3 + at}", outcome, action) for at, (outcome, action) in enumerate(since)]
    stopped = runs.stopped(entries)
    assert (stopped is not None) is is_known
    assert runs.is_half_done(entries, None) is is_known
    assert (runs.describe_stopped(entries) != "") is is_known
    if stopped:
        assert stopped["record"] == {"schema_before": "a"}


def test_a_rotation_that_stopped_is_told_but_is_nothing_that_a_rollback_goes_back_from() -> None:
    entries = [release("r1", "in force"), release("r2", "stopped, not taken back", "rotate")]
    assert runs.describe_stopped(entries) == (
        "Half done: the 'rotate' of alice@here since noon stopped in its step 'services', and its lock was removed. "
        "No rollback goes back from there; `./deploy.sh ENVIRONMENT deploy` goes on from there."
    )
    assert runs.is_half_done(entries, None) is False
    assert runs.is_half_done(entries[:1], run("rotate", run("deploy"))) is True


@pytest.mark.parametrize(
    ("left_by", "operand", "where", "first"),
    [
        (
            "deploy",
            "",
            ", which was to replace release r4,",
            "`./deploy.sh ENVIRONMENT rollback` goes back to release r4",
        ),
        (
            "update",
            "proxy",
            ", which was to replace release r4,",
            "`./deploy.sh ENVIRONMENT rollback` goes back to release r4",
        ),
        ("rotate", "jwt-secret", ", which was to replace release r4,", "No rollback goes back from there"),
        ("scale", "proxy", "", "No rollback goes back from there"),
        ("rollback", "r1", "", "`./deploy.sh ENVIRONMENT rollback r1` goes back to release r1"),
        ("fleet", "studio", "", "`./deploy.sh ENVIRONMENT fleet studio` does it again"),
        ("destroy", "", "", "`./deploy.sh ENVIRONMENT destroy` does it again"),
        ("destroy", "--data", "", "`./deploy.sh ENVIRONMENT destroy --data` does it again"),
    ],
)
def test_a_lock_that_a_killed_run_left_says_where_it_stopped_and_which_commands_go_back_or_on(
    left_by: str, operand: str, where: str, first: str
) -> None:
    left = run(left_by, operand=operand)
    assert runs.describe_lock(left, LOCK, "r4", [], "update") == (
        f"Locked: the '{' '.join(word for word in (left_by, operand) if word)}' of alice@here since noon{where} "
        f"stopped in its step 'services'; its process 7 is gone. {first}; "
        "`./deploy.sh ENVIRONMENT update --go-on` goes on from there; "
        "`unlock` only removes the lock."
    )


@pytest.mark.parametrize(
    ("action", "operand", "command"),
    [
        ("deploy", "", "deploy"),
        ("update", "", "update"),
        ("update", "proxy", "deploy"),
        ("rotate", "jwt-secret", "rotate jwt-secret"),
        ("scale", "proxy", "deploy"),
        ("plan", "", "deploy"),
    ],
)
def test_who_is_refused_is_told_to_say_the_same_again_where_that_goes_on(
    action: str, operand: str, command: str
) -> None:
    assert runs.command_onwards(action, operand) == command


def test_where_no_release_is_in_force_the_lock_says_that_there_is_none_to_go_back_to() -> None:
    told = runs.describe_lock(run("deploy"), LOCK, "", [])
    assert ", which was to be the first release, stopped in its step 'services'" in told
    assert (
        "There is no release to go back to, and `./deploy.sh ENVIRONMENT destroy` removes what there is; "
        "`./deploy.sh ENVIRONMENT deploy --go-on` goes on from there"
    ) in told


@pytest.mark.parametrize(
    ("living", "processes", "wait"),
    [
        (["8"], "process 8", "."),
        (["7", "8"], "processes 7 and 8", "."),
        (None, "process 7", "; if that host is gone: ./deploy.sh ENVIRONMENT unlock"),
    ],
)
def test_of_a_run_that_may_be_at_work_it_is_said_who_it_is_and_what_of_it_lives(
    living: list[str] | None, processes: str, wait: str
) -> None:
    told = runs.describe_lock(run("deploy"), LOCK, "r4", living)
    assert told == f"Locked: alice@here ({processes}) is busy with 'deploy' since noon. Wait for its end{wait}"


@pytest.mark.parametrize(
    ("living", "told"),
    [
        (["8"], "Its process 8 is alive: end it first."),
        (["7", "8"], "Its processes 7 and 8 are alive: end them first."),
    ],
)
def test_what_has_to_end_before_a_lock_is_removed_is_named(living: list[str], told: str) -> None:
    assert runs.describe_living(living) == told


def test_a_lock_without_a_word_of_its_owner_is_told_with_its_place() -> None:
    told = runs.describe_lock(None, LOCK, "", None)
    assert told == (
        "Locked by /state/lock, which says nothing about its owner.\nRemove it: ./deploy.sh ENVIRONMENT unlock"
    )


@pytest.mark.parametrize(
    ("since", "are_away"),
    [
        ([], True),
        (["failed, nothing changed"], True),
        (["in force"], False),
        (["failed, taken back"], False),
        (["stopped, not taken back"], False),
    ],
)
def test_services_that_were_removed_are_away_until_a_run_changes_something(since: list[str], are_away: bool) -> None:
    entries = [release("r1", "in force"), release("r2", "services removed", "destroy", until="one")]
    entries += [release(f"r{3 + at}", outcome) for at, outcome in enumerate(since)]
    told = "The 'destroy' of alice@here has removed the services at one, and left the data."
    assert runs.describe_removed(entries) == (
        f"{told} `./deploy.sh ENVIRONMENT deploy` brings them back." if are_away else ""
    )
    assert runs.active(entries[:2])["id"] == "r1"


def test_a_restoration_that_was_killed_is_told_with_how_far_it_had_come() -> None:
    left = run("restore", operand="athena-1", steps=[{"step": "swap", "at": "noon"}])
    told = runs.describe_lock(left, LOCK, "r4", [])
    assert "the 'restore athena-1' of alice@here since noon stopped in its step 'swap'" in told
    assert "No rollback goes back from there; `./deploy.sh ENVIRONMENT deploy --go-on` goes on from there" in told


def test_a_run_that_was_taken_over_is_told_once_and_as_what_it_was_to_be() -> None:
    killed = run("deploy", content={"n": 0}, attempted={"content": {"n": 1}, "record": {"backup": "b1"}})
    known = {**release("r1", "stopped, not taken back"), "backup": "b2"}
    told = runs.runs_of([known, release("r2", "in force", took_over=[killed, known])], run("update"))
    assert [(one["id"], one["content"]["n"], one["backup"]) for one in told] == [
        ("r1", "r1", "b2"),
        ("", 1, "b1"),
        ("r2", "r2", None),
    ]


def test_what_the_first_of_several_runs_saw_counts() -> None:
    assert runs.first_recorded([{}, {"schema_before": "a"}, {"schema_before": "b", "backup": "b1"}]) == {
        "schema_before": "a",
        "backup": "b1",
    }
