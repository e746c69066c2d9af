"""What a run leaves that stopped half way: who may go on from it, who may go back, and what the ledger keeps."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from journal_operations import Operation, entry, killed, opened, step

pytest_plugins = ["the_journal"]


@pytest.mark.parametrize(
    ("left_by", "action", "passes"),
    [
        ("deploy", "deploy", True),
        ("deploy", "update", True),
        ("deploy", "destroy", True),
        ("destroy", "destroy", True),
        ("destroy", "deploy", True),
        ("destroy", "rollback", False),
        ("deploy", "rollback", True),
        ("update", "rollback", True),
        ("rotate", "rollback", False),
        ("rotate", "rotate", True),
        ("deploy", "rotate", True),
        ("scale", "rollback", False),
        ("deploy", "scale", False),
        ("rollback", "rollback", True),
        ("fleet", "fleet", True),
        ("deploy", "fleet", False),
        ("fleet", "deploy", True),
        ("scale", "deploy", True),
    ],
)
def test_what_a_killed_run_left_is_mended_or_taken_away_and_nothing_else_is_done(
    do: Operation, tmp_path: Path, left_by: str, action: str, passes: bool
) -> None:
    opened(do, left_by)
    step(do, "services")
    killed(tmp_path)
    refusal = do("refuse", action=action, go_on=True)
    assert (refusal == {}) is passes
    if not passes:
        assert "stopped in its step 'services'" in refusal["msg"]


@pytest.mark.parametrize("left_by", ["deploy", "update", "rotate", "scale", "fleet", "rollback", "restore", "destroy"])
@pytest.mark.parametrize("action", ["deploy", "update", "rotate"])
def test_from_where_a_run_stopped_a_deployment_goes_on_only_where_it_is_told_to(
    do: Operation, tmp_path: Path, left_by: str, action: str
) -> None:
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    opened(do, left_by)
    step(do, "services")
    killed(tmp_path)
    before = {path: path.read_text() for path in (tmp_path / "state").rglob("*.json")}
    for refused in (do("refuse", action=action), opened(do, action)):
        assert (refused["failed"], refused["verdict"]) == (True, 5)
        assert f"the '{left_by}' of " in refused["msg"]
        assert "stopped in its step 'services'" in refused["msg"]
        assert f"`./deploy.sh ENVIRONMENT {action} --go-on` goes on from there" in refused["msg"]
        assert refused["msg"].endswith("\nNothing was changed.")
    assert {path: path.read_text() for path in (tmp_path / "state").rglob("*.json")} == before
    assert opened(do, action, go_on=True)["msg"].startswith(f"Going on where the '{left_by}' since ")


def test_a_deployment_is_refused_with_the_way_back_and_the_one_onwards(do: Operation, tmp_path: Path) -> None:
    opened(do)
    step(do, "services")
    killed(tmp_path)
    removes = "There is no release to go back to, and `./deploy.sh ENVIRONMENT destroy` removes what there is; "
    assert removes in opened(do)["msg"]
    opened(do, go_on=True)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    opened(do, "update")
    step(do, "schema", {"n": 2})
    killed(tmp_path)
    assert (
        "`./deploy.sh ENVIRONMENT rollback` goes back to release r1; `./deploy.sh ENVIRONMENT deploy --go-on` goes on"
    ) in opened(do)["msg"]
    assert "failed" not in opened(do, "rollback")


@pytest.mark.parametrize("action", ["deploy", "plan"])
def test_a_plan_is_refused_as_well_and_told_of_both_ways(
    do: Operation, play_context: SimpleNamespace, tmp_path: Path, action: str
) -> None:
    opened(do)
    step(do, "services")
    killed(tmp_path)
    play_context.check_mode = True
    refused = opened(do, action)
    assert refused["verdict"] == 5
    assert "`./deploy.sh ENVIRONMENT deploy --go-on` goes on from there" in refused["msg"]
    assert opened(do, "deploy", go_on=True) == {}


def test_a_deployment_that_is_told_to_go_on_where_nothing_stopped_is_like_any_other(do: Operation) -> None:
    begun = opened(do, go_on=True)
    assert (begun["took_over"], begun["msg"]) == ([], "")


def test_one_that_is_told_to_go_on_does_not_pass_a_run_that_lives(do: Operation) -> None:
    opened(do)
    assert opened(do, go_on=True)["verdict"] == 5


def test_what_a_killed_deployment_left_is_gone_back_from_to_the_release_in_force(do: Operation, tmp_path: Path) -> None:
    opened(do)
    step(do, "services")
    killed(tmp_path)
    assert "rollback" not in do("read")["lock_told"]  # there is no release to go back to
    opened(do, go_on=True)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    assert do("read")["half_done"] is False
    opened(do, "update")
    step(do, "schema", {"n": 2})
    killed(tmp_path)
    seen = do("read")
    assert "`./deploy.sh ENVIRONMENT rollback` goes back to release r1" in seen["lock_told"]
    assert "`./deploy.sh ENVIRONMENT deploy --go-on` goes on from there; `unlock` only" in seen["lock_told"]
    assert seen["half_done"] is True
    opened(do, "rollback")
    killed(tmp_path)
    seen = do("read")
    assert "`./deploy.sh ENVIRONMENT rollback` goes back to release r1" in seen["lock_told"]
    assert seen["half_done"] is True  # it is still to be gone back from
    opened(do, "rollback")
    do("close", outcome="in force", verdict=0, content={"n": 1})
    assert do("read")["half_done"] is False


@pytest.mark.parametrize("left_by", ["rotate", "scale"])
def test_a_rollback_is_not_offered_where_it_would_not_do(do: Operation, tmp_path: Path, left_by: str) -> None:
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    opened(do, left_by)
    step(do, "services")
    killed(tmp_path)
    opened(do, go_on=True)
    killed(tmp_path)  # a deployment that went on from there does not make it known what it is
    assert "No rollback goes back from there; `./deploy.sh ENVIRONMENT deploy --go-on` goes" in do("read")["lock_told"]
    assert opened(do, "rollback")["failed"]


def test_of_a_run_whose_lock_is_removed_the_ledger_keeps_what_it_had_begun(do: Operation, tmp_path: Path) -> None:
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    opened(do)
    assert do("read")["runs"][-1]["content"] == {"n": 1}
    step(do, "schema", {"n": 2})
    killed(tmp_path)
    unlocked = do("unlock")
    assert (unlocked["recorded"], unlocked["goes_back"]) == ("r2", True)
    told = entry(tmp_path, "r2")
    assert (told["outcome"], told["content"], told["replaces"]) == ("stopped, not taken back", {"n": 2}, "r1")
    assert told["error"] == "it stopped in its step 'schema'"
    assert told["schema_before"] == "a"
    seen = do("read")
    assert seen["half_done"] is True
    assert [(run["id"], run["content"]) for run in seen["runs"]] == [("r1", {"n": 1}), ("r2", {"n": 2})]
    opened(do, "rollback")
    killed(tmp_path)
    assert do("read")["half_done"] is True  # the next rollback goes where this one went
    opened(do, "rollback")
    assert do("close", outcome="in force", verdict=0, content={"n": 1})["recorded"] == "r3"
    assert entry(tmp_path, "r3")["restores"] == "r1"
    assert do("read")["half_done"] is False


def stopped_and_unlocked(do: Operation, tmp_path: Path) -> None:
    """Have a release in force, and an update that was killed on its way to another, without its lock."""
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    opened(do, "update")
    step(do, "services", {"n": 2})
    killed(tmp_path)
    assert do("unlock")["recorded"] == "r2"


def test_what_is_half_done_is_told_without_its_lock_as_well_and_not_before_the_run_is_over(
    do: Operation, tmp_path: Path
) -> None:
    stopped_and_unlocked(do, tmp_path)
    seen = do("read")
    assert "stopped in its step 'services', and its lock was removed" in seen["half_told"]
    back = "`./deploy.sh ENVIRONMENT rollback` goes back to release r1"
    assert seen["half_told"].endswith(f"{back}; `./deploy.sh ENVIRONMENT deploy` goes on from there.")
    assert (seen["lock"], seen["left"], seen["lock_told"]) == (None, None, "")
    opened(do)
    assert do("read")["half_told"] == ""  # somebody is at it
    killed(tmp_path)
    assert do("read")["half_told"] == do("read")["lock_told"]


def test_a_run_that_changes_nothing_leaves_known_what_is_half_done(do: Operation, tmp_path: Path) -> None:
    stopped_and_unlocked(do, tmp_path)
    opened(do, "restore")
    do("close", outcome="failed, nothing changed", verdict=1, content={"n": 1}, error="no such backup")
    opened(do)
    killed(tmp_path)  # before its first step
    assert do("unlock")["recorded"] is None
    seen = do("read")
    assert (seen["half_done"], "the 'update' of" in seen["half_told"]) == (True, True)
    opened(do)
    assert do("close", outcome="in force", verdict=0, content={"n": 1})["recorded"] == "r4"
    assert (do("read")["half_done"], do("read")["half_told"]) == (False, "")


@pytest.mark.parametrize("action", ["scale", "fleet", "restore"])
@pytest.mark.parametrize("outcome", ["in force", "failed, taken back"])
def test_what_does_not_mend_it_leaves_known_what_is_half_done(
    do: Operation, tmp_path: Path, action: str, outcome: str
) -> None:
    stopped_and_unlocked(do, tmp_path)
    said = opened(do, action)["msg"]
    assert said.startswith("Half done, and not mended by this: the 'update' since ")
    step(do, "services", {"n": 1, "scaled": 3})
    assert do("close", outcome=outcome, verdict=0, content={"n": 1, "scaled": 3})["recorded"] == "r3"
    seen = do("read")
    in_force = "r3" if outcome == "in force" else "r1"
    assert seen["half_done"] is True
    assert "the 'update' of" in seen["half_told"]
    assert f"`./deploy.sh ENVIRONMENT rollback` goes back to release {in_force}; " in seen["half_told"]
    # What is killed on top of that is told with what mends both.
    opened(do, action)
    step(do, "engines", {"n": 1})
    killed(tmp_path)
    assert do("unlock")["recorded"] == "r4"
    told = "No rollback goes back from there; `./deploy.sh ENVIRONMENT deploy` goes on from there."
    assert do("read")["half_told"].endswith(told)
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 2})
    assert (do("read")["half_done"], do("read")["half_told"]) == (False, "")


def test_what_changes_nothing_and_does_not_mend_it_is_in_no_ledger(do: Operation, tmp_path: Path) -> None:
    stopped_and_unlocked(do, tmp_path)
    opened(do, "fleet")
    assert do("close", outcome="in force", verdict=0, content={"n": 1})["recorded"] is None
    assert do("read")["half_done"] is True


@pytest.mark.parametrize("left_by", ["rotate", "update"])
def test_a_rotation_mends_what_a_deployment_would(do: Operation, tmp_path: Path, left_by: str) -> None:
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    opened(do, left_by)
    step(do, "secrets", {"n": 1})
    killed(tmp_path)
    do("unlock")
    assert opened(do, "rotate")["msg"].startswith(f"Going on where the '{left_by}' since ")
    step(do, "services", {"n": 1})
    assert do("close", outcome="in force", verdict=0, content={"n": 1})["recorded"] == "r3"
    assert (do("read")["half_done"], do("read")["half_told"]) == (False, "")


def test_a_fleet_mends_what_a_fleet_left_whose_lock_was_removed(do: Operation, tmp_path: Path) -> None:
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    opened(do, "fleet")
    step(do, "engines", {"n": 1})
    killed(tmp_path)
    do("unlock")
    again = "`./deploy.sh ENVIRONMENT fleet` does it again; `./deploy.sh ENVIRONMENT deploy` goes on from there."
    assert do("read")["half_told"].endswith(again)
    opened(do, "scale")
    do("close", outcome="in force", verdict=0, content={"n": 1, "scaled": 2})
    assert do("read")["half_told"].endswith(again)
    opened(do, "fleet")
    do("close", outcome="in force", verdict=0, content={"n": 1, "scaled": 2})
    assert do("read")["half_told"] == ""


def test_a_deployment_after_an_unlock_takes_back_with_its_own_steps_those_of_the_run_that_stopped(
    do: Operation, tmp_path: Path
) -> None:
    stopped_and_unlocked(do, tmp_path)
    taken_over = opened(do)
    assert [(run["id"], run["steps"][-1]["step"]) for run in taken_over["took_over"]] == [("r2", "services")]
    assert taken_over["msg"].startswith("Going on where the 'update' since ")
    do("step", step="hosts", record={"schema_before": "b"}, content={"n": 3}, message="hosts")
    do("fail", content={"n": 3}, record={"schema_before": "b"})
    assert do("close", outcome="failed, taken back", verdict=3, content={"n": 1}, error="no image")["recorded"] == "r3"
    assert entry(tmp_path, "r3")["schema_before"] == "a"  # as it was before the first of the two
    seen = do("read")
    assert (seen["half_done"], seen["half_told"]) == (False, "")
    assert [(run["id"], run["content"]["n"]) for run in seen["runs"]] == [("r1", 1), ("r2", 2), ("r3", 3)]


def test_a_rollback_that_stopped_and_whose_lock_was_removed_is_told_with_where_it_went(
    do: Operation, tmp_path: Path
) -> None:
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    do("open", action="rollback", operand="r1", owner_pid=os.getpid())
    step(do, "services", {"n": 1})
    killed(tmp_path)
    do("unlock")
    assert "`./deploy.sh ENVIRONMENT rollback r1` goes back to release r1; " in do("read")["half_told"]


def test_a_lock_from_before_anything_was_begun_leaves_nothing_in_the_ledger(do: Operation, tmp_path: Path) -> None:
    opened(do)
    killed(tmp_path)
    assert do("unlock")["recorded"] is None
    assert do("read")["runs"] == []


def test_every_run_that_may_have_changed_something_is_known_with_what_it_was_to_bring_about(
    do: Operation, tmp_path: Path
) -> None:
    opened(do)
    step(do, "schema", {"n": 1})
    killed(tmp_path)
    opened(do, go_on=True)
    step(do, "schema", {"n": 2})
    do("fail", content={"n": 2}, record={"schema_before": "b", "backup": {"id": "b2"}})
    step(do, "secrets", {"n": 0})  # of the way back
    do("close", outcome="failed, taken back", verdict=3, content={"n": 0}, error="a pod")
    opened(do)
    step(do, "schema", {"n": 3})
    do("fail", content={"n": 3}, record={"schema_before": "c", "backup": {"id": "b3"}})
    step(do, "secrets", {"n": 0})
    killed(tmp_path)
    assert [(run["id"], run["outcome"], run["content"]["n"], run["backup"]) for run in do("read")["runs"]] == [
        ("", "stopped, not taken back", 1, None),
        ("r1", "failed, taken back", 2, {"id": "b2"}),
        ("", "stopped, not taken back", 3, {"id": "b3"}),
    ]
