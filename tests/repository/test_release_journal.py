"""The lock, the journal and the ledger: what each operation leaves, by the operations themselves."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from loading import load

Operation = Callable[..., dict[str, Any]]


@pytest.fixture
def play_context() -> SimpleNamespace:
    """What Ansible says of the play."""
    return SimpleNamespace(check_mode=False)


@pytest.fixture
def do(tmp_path: Path, play_context: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Operation:
    """Operations on the ledger of a folder, in a checkout without git."""
    load("roles/release/module_utils/release_runs.py")
    load("roles/release/module_utils/state_folder.py")
    module = load("roles/release/action_plugins/release_journal.py")
    action = module.ActionModule.__new__(module.ActionModule)
    action._state = tmp_path / "state"
    action._play_context = play_context
    monkeypatch.chdir(tmp_path)

    def operation(name: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(action, f"_op_{name}")(arguments)
        return answer

    return operation


def opened(do: Operation, action: str = "deploy", *, go_on: bool = False) -> dict[str, Any]:
    """Open the lock as a run of this process, which was told to go on from where another stopped, or not."""
    return do("open", action=action, go_on=go_on, owner_pid=os.getpid())


def step(do: Operation, name: str, content: dict[str, Any] | None = None) -> None:
    """Begin a step of what is to have the content."""
    do("step", step=name, record={"schema_before": "a"}, content=content or {}, message=name)


def entry(tmp_path: Path, name: str) -> dict[str, Any]:
    """Return what the ledger has of a release."""
    told: dict[str, Any] = json.loads((tmp_path / "state" / "ledger" / f"{name}.json").read_text())
    return told


def killed(tmp_path: Path) -> None:
    """Have the processes of the lock's owner be gone."""
    file = tmp_path / "state" / "lock" / "journal.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"processes": {"1": "never"}}))


def said_by_another_host(tmp_path: Path) -> None:
    """Have the lock be of a process of another host."""
    file = tmp_path / "state" / "lock" / "journal.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"host": "elsewhere"}))


def test_every_step_of_a_release_in_force_is_completed(do: Operation, tmp_path: Path) -> None:
    opened(do)
    step(do, "image")
    step(do, "services")
    assert do("close", outcome="in force", verdict=0, content={"n": 1})["recorded"] == "r1"
    assert all("done" in made for made in entry(tmp_path, "r1")["steps"])
    assert not (tmp_path / "state" / "lock").exists()


def test_a_release_that_is_recorded_before_its_last_step_is_in_force_and_entered_once(
    do: Operation, tmp_path: Path
) -> None:
    opened(do)
    step(do, "proof")
    assert do("record", outcome="in force", content={"n": 1})["recorded"] == "r1"
    assert (tmp_path / "state" / "lock").exists()
    step(do, "prune", {"n": 1})
    assert do("close", outcome="in force", verdict=0, content={"n": 1})["recorded"] == "r1"
    assert [path.name for path in (tmp_path / "state" / "ledger").iterdir()] == ["r1.json"]
    assert entry(tmp_path, "r1")["steps"][-1].keys() == {"step", "at", "done"}
    opened(do)
    assert do("record", outcome="in force", content={"n": 1})["recorded"] is None
    assert do("close", outcome="in force", verdict=0, content={"n": 1})["recorded"] is None


def test_a_run_that_is_killed_once_it_is_recorded_is_told_of_and_gone_on_with(do: Operation, tmp_path: Path) -> None:
    opened(do)
    step(do, "proof")
    do("record", outcome="in force", content={"n": 1}, record={"schema_before": "a"})
    step(do, "prune", {"n": 1})
    killed(tmp_path)
    seen = do("read")
    assert "which had brought its release into force, stopped in its step 'prune'" in seen["half_told"]
    assert "`./deploy.sh ENVIRONMENT rollback` goes back to release r1" in seen["half_told"]
    assert opened(do)["verdict"] == 5
    # What goes on from there has seen what itself has seen, and not what the release before it saw.
    assert [run["steps"][-1]["step"] for run in opened(do, go_on=True)["took_over"]] == ["prune"]
    do("close", outcome="in force", verdict=0, content={"n": 2}, record={"schema_before": "b"})
    assert entry(tmp_path, "r2")["schema_before"] == "b"
    assert do("read")["half_told"] == ""


def test_a_failed_release_is_recorded_as_it_was_to_be_and_its_failed_step_as_failed(
    do: Operation, tmp_path: Path
) -> None:
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    opened(do)
    step(do, "image")
    step(do, "services")
    do("fail", content={"n": 2}, record={"migrations": ["b"]})
    step(do, "secrets")  # of the way back, which brings the content of the release before with it
    do("close", outcome="failed, taken back", verdict=3, content={"n": 1}, record={"migrations": []}, error="a pod")
    told = entry(tmp_path, "r2")
    assert [(made["step"], "done" in made, "failed" in made) for made in told["steps"]] == [
        ("image", True, False),
        ("services", False, True),
        ("secrets", False, False),
    ]
    assert told["content"] == {"n": 2}
    assert told["content_before"] == {"n": 1}
    assert told["migrations"] == ["b"]


def test_what_a_failed_release_could_not_take_back_is_of_the_release_in_force_from_then_on(
    do: Operation, tmp_path: Path
) -> None:
    def close(content: dict[str, Any]) -> Any:
        opened(do)
        return do("close", outcome="in force", verdict=0, content=content)["recorded"]

    def fail(content: dict[str, Any], left: dict[str, Any]) -> None:
        opened(do)
        do("fail", content=content, record={})
        do("close", outcome="failed, taken back", verdict=3, content={}, error="a pod", left=left)

    def in_force(*names: str) -> Any:
        return load("roles/release/module_utils/release_runs.py").active([entry(tmp_path, name) for name in names])[
            "content"
        ]

    assert close({"n": 1, "schema": "a", "ahead": False}) == "r1"
    fail({"n": 2, "schema": "b", "ahead": False}, {"schema": "b", "ahead": True})
    fail({"n": 3, "schema": "b", "ahead": False}, {})
    assert in_force("r1", "r2", "r3") == {"n": 1, "schema": "b", "ahead": True}
    assert close({"n": 1, "schema": "b", "ahead": True}) is None
    assert close({"n": 4, "schema": "b", "ahead": False}) == "r4"
    assert in_force("r1", "r2", "r3", "r4") == {"n": 4, "schema": "b", "ahead": False}


def test_nothing_is_recorded_where_nothing_differs(do: Operation, tmp_path: Path) -> None:
    for _ in range(2):
        opened(do)
        do("close", outcome="in force", verdict=0, content={"n": 1})
    assert [path.name for path in (tmp_path / "state" / "ledger").iterdir()] == ["r1.json"]


def test_a_restoration_is_recorded_though_the_release_is_the_same_and_is_none_to_go_back_to(
    do: Operation, tmp_path: Path
) -> None:
    for content in ({"n": 1}, {"n": 2}):
        opened(do)
        do("close", outcome="in force", verdict=0, content=content)
    opened(do, "restore")
    step(do, "swap", {"n": 2})
    record = {"restored": {"backup": "b1"}}
    assert do("close", outcome="in force", verdict=0, content={"n": 2}, record=record)["recorded"] == "r3"
    told = entry(tmp_path, "r3")
    assert (told["restores"], told["restored"], told["steps"][0]["step"]) == ("r2", {"backup": "b1"}, "swap")
    opened(do)
    assert do("close", outcome="in force", verdict=0, content={"n": 2})["recorded"] is None


def killed_restoration(do: Operation, tmp_path: Path) -> None:
    """Have a release in force, and a restoration that was killed once its backup was in place."""
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    opened(do, "restore")
    record = {"restored": {"backup": "b1", "previous": "athena_before_1", "made_before": "b2"}}
    do("step", step="schema", record=record, content={"n": 1}, message="schema")
    killed(tmp_path)


@pytest.mark.parametrize("again", [False, True], ids=["once", "killed once more"])
def test_a_restoration_that_a_deployment_goes_on_with_is_in_the_ledger_though_the_release_is_the_same(
    do: Operation, tmp_path: Path, again: bool
) -> None:
    killed_restoration(do, tmp_path)
    if again:
        opened(do, go_on=True)
        killed(tmp_path)
    opened(do, go_on=True)
    record = {"schema_before": "a"}
    assert do("close", outcome="in force", verdict=0, content={"n": 1}, record=record)["recorded"] == "r2"
    told = entry(tmp_path, "r2")
    assert told["restored"] == {"backup": "b1", "previous": "athena_before_1", "made_before": "b2"}
    assert (told["restores"], told["schema_before"], told["took_over"][0]["action"]) == ("r1", "a", "restore")
    opened(do)
    assert do("close", outcome="in force", verdict=0, content={"n": 1}, record=record)["recorded"] is None


def test_a_restoration_whose_lock_was_removed_is_in_the_ledger_and_what_does_not_mend_it_tells_it_no_second_time(
    do: Operation, tmp_path: Path
) -> None:
    killed_restoration(do, tmp_path)
    assert do("unlock")["recorded"] == "r2"
    assert entry(tmp_path, "r2")["restored"]["previous"] == "athena_before_1"
    opened(do, "scale")
    assert do("close", outcome="in force", verdict=0, content={"n": 1})["recorded"] is None


def test_services_that_were_removed_are_told_until_a_run_has_them_again_and_the_release_stays_what_it_was(
    do: Operation, tmp_path: Path
) -> None:
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    opened(do, "destroy")
    assert do("close", outcome="services removed", verdict=0, content={"n": 1})["recorded"] == "r2"
    assert "has removed the services" in do("read")["removed_told"]
    opened(do)
    assert do("close", outcome="in force", verdict=0, content={"n": 1})["recorded"] == "r3"
    assert (entry(tmp_path, "r3")["restores"], entry(tmp_path, "r3")["replaces"]) == ("r1", "r1")
    assert do("read")["removed_told"] == ""


@pytest.mark.parametrize("action", ["deploy", "rollback", "scale", "destroy"])
def test_a_lock_whose_process_lives_lets_nobody_pass_and_is_not_removed(do: Operation, action: str) -> None:
    opened(do)
    assert opened(do, action)["verdict"] == 5
    assert do("refuse", action=action)["failed"]
    assert do("unlock")["failed"]


def test_of_the_processes_of_a_lock_those_are_named_that_live(do: Operation, tmp_path: Path) -> None:
    opened(do)
    living = f"{os.getpid()} and {os.getppid()}"  # deploy.sh and ansible-playbook
    file = tmp_path / "state" / "lock" / "journal.json"
    journal = json.loads(file.read_text())
    assert do("unlock")["msg"].endswith(f"Its processes {living} are alive: end them first.")
    file.write_text(json.dumps(journal | {"processes": journal["processes"] | {str(os.getpid()): "never"}}))
    for told in (opened(do)["msg"], do("unlock")["msg"], do("read")["lock_told"]):
        assert f"(process {os.getppid()}) is busy with 'deploy'" in told
    assert do("unlock")["msg"].endswith(f"Its process {os.getppid()} is alive: end it first.")


def test_the_lock_of_another_host_lets_nobody_pass_until_somebody_removes_it(do: Operation, tmp_path: Path) -> None:
    opened(do)
    said_by_another_host(tmp_path)
    refused = opened(do)
    assert refused["verdict"] == 5
    assert "@elsewhere" in refused["msg"]
    assert "./deploy.sh ENVIRONMENT unlock" in refused["msg"]
    assert do("unlock")["lock"]["host"] == "elsewhere"
    assert "failed" not in opened(do)


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


def test_what_is_no_release_leaves_the_ledger_as_it_is(do: Operation, tmp_path: Path) -> None:
    opened(do, "fleet")
    step(do, "engines")
    assert do("leave", verdict=3) == {"verdict": 3}
    assert not (tmp_path / "state" / "lock").exists()
    assert not (tmp_path / "state" / "ledger").exists()
    assert do("leave", verdict=3) == {}


def test_destroy_removes_everything_with_its_lock_and_leaves_nothing_to_go_on_with(
    do: Operation, tmp_path: Path
) -> None:
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    opened(do, "destroy")
    assert do("refuse", action="deploy")["failed"]
    assert do("remove", verdict=0) == {"changed": True, "verdict": 0}
    assert not (tmp_path / "state").exists()
    assert do("remove", verdict=0) == {"changed": False, "verdict": 0}


@pytest.mark.parametrize("is_check", [False, True])
def test_a_folder_with_files_of_others_is_not_made_ours(
    do: Operation, tmp_path: Path, play_context: SimpleNamespace, is_check: bool
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "diary").touch()
    play_context.check_mode = is_check
    refused = opened(do)
    assert refused["failed"]
    assert "holds files that are not of a deployment" in refused["msg"]
    assert "Nothing was changed" in refused["msg"]
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["diary"]


def test_an_empty_folder_is_made_ours(do: Operation, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    opened(do)
    assert (tmp_path / "state" / ".athena-environment").exists()


def test_what_a_destroy_left_that_was_killed_goes_when_the_next_run_begins(do: Operation, tmp_path: Path) -> None:
    opened(do)
    (tmp_path / "state").rename(tmp_path / ".state.removed")
    opened(do)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


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


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_run_that_another_overtook_while_it_was_looking_is_refused_and_may_look_again(
    do: Operation, play_context: SimpleNamespace, tmp_path: Path, check_mode: bool
) -> None:
    first_look = do("read")["seen"]
    opened(do)
    do("close", outcome="in force", verdict=0, content={"n": 1})
    play_context.check_mode = check_mode
    refused = do("open", action="deploy", owner_pid=os.getpid(), seen=first_look)
    assert (refused["failed"], refused["verdict"]) == (True, 5)
    assert "the ledger ends with r1 now, the 'deploy' of " in refused["msg"]
    assert not (tmp_path / "state" / "lock").exists()
    assert not do("open", action="deploy", owner_pid=os.getpid(), seen=do("read")["seen"]).get("failed")


def test_so_is_one_that_saw_no_lock_where_a_killed_run_has_left_one_since_or_saw_one_that_is_gone(
    do: Operation, tmp_path: Path
) -> None:
    no_lock = do("read")["seen"]
    opened(do)
    killed(tmp_path)
    lock = do("read")["seen"]
    assert do("open", action="deploy", owner_pid=os.getpid(), seen=no_lock)["verdict"] == 5
    do("unlock")
    assert do("open", action="deploy", owner_pid=os.getpid(), seen=lock)["msg"].startswith("Another run was at work")
    assert "failed" not in do("open", action="deploy", owner_pid=os.getpid(), seen=no_lock)
