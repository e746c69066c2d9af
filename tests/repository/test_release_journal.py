"""The lock, the journal and the ledger: what each operation leaves, by the operations themselves."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from journal_operations import Operation, entry, killed, opened, said_by_another_host, step
from loading import load

pytest_plugins = ["the_journal"]


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
