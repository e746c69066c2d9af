"""The folder of an environment's state: which one is taken, and how it goes away, also where a run is killed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from loading import load
from playing import local_play, run_plays

Kill = Callable[[int], None]
FILES = ("ledger/r1.json", "lock/journal.json", "secrets/token", "current", ".athena-environment")


@pytest.fixture
def folders() -> ModuleType:
    return load("roles/release/module_utils/state_folder.py")


@pytest.fixture
def preflight(folders: ModuleType) -> ModuleType:
    assert folders.MARKER
    return load("roles/release/library/host_preflight.py")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A folder of ours."""
    folder = tmp_path / "state"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


class Killed(BaseException):
    """The run is over here."""


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Kill:
    """Have a removal end once it has removed so many things."""

    def after(number: int) -> None:
        left = [number]

        def counting(function: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: Any, **options: Any) -> None:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                function(*arguments, **options)

            return call

        for place, name in ((shutil, "rmtree"), (Path, "unlink"), (Path, "rmdir")):
            monkeypatch.setattr(place, name, counting(getattr(place, name)))

    return after


def test_a_folder_of_ours_goes_with_all_that_is_in_it(folders: ModuleType, state: Path, tmp_path: Path) -> None:
    folders.remove(state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", range(6))
def test_where_the_removal_is_killed_the_folder_is_gone_for_everybody_and_the_next_run_finishes_it(
    folders: ModuleType, state: Path, kill: Kill, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    kill(number)
    with pytest.raises(Killed):
        folders.remove(state)
    monkeypatch.undo()
    assert not state.exists()
    assert folders.problem_of_owner(state) == ""
    folders.claim(state)
    folders.finish_removal(state)
    assert [path.name for path in state.iterdir()] == [folders.MARKER]
    folders.remove(state)
    assert list(state.parent.iterdir()) == []


@pytest.mark.parametrize("number", range(5))
def test_a_folder_that_cannot_be_renamed_keeps_its_lock_until_all_else_has_gone_and_says_whose_it_is(
    folders: ModuleType, state: Path, kill: Kill, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    kill(number)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(Killed):
        folders.remove(state)
    monkeypatch.undo()
    there = {path.name for path in state.iterdir()}
    assert folders.MARKER in there
    assert "lock" in there or there == {folders.MARKER}
    assert folders.problem_of_owner(state) == ""


def test_the_folder_of_a_link_goes_and_the_link(folders: ModuleType, state: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    state.rename(elsewhere)
    state.symlink_to(elsewhere)
    folders.remove(state)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    assert list(elsewhere.iterdir()) == []


def test_what_others_have_where_a_removal_would_leave_something_is_left_alone(
    folders: ModuleType, state: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / ".state.removed" / "diary"
    theirs.parent.mkdir()
    theirs.touch()
    folders.remove(state)
    assert [path.name for path in tmp_path.rglob("*")] == [".state.removed", "diary"]


@pytest.mark.parametrize(
    ("given", "whole"), [("~/x", f"{Path.home()}/x"), ("x", f"{Path.cwd()}/x"), ("~nobody-of-that-name", None)]
)
def test_a_name_that_is_not_whole_is_refused_with_the_whole_one(
    folders: ModuleType, given: str, whole: str | None
) -> None:
    problem = folders.problem_of_name(given)
    assert problem.startswith(f"athena_state_dir must be a whole path, without `~`; it is {given}.")
    assert whole is None or problem.endswith(f"-e athena_state_dir={whole}.")


def test_a_whole_name_is_taken(folders: ModuleType) -> None:
    assert folders.problem_of_name("/var/lib/athena/dev") == ""
    assert "it is empty" in folders.problem_of_name("")


def test_the_role_refuses_it_before_it_looks_at_anything(tmp_path: Path) -> None:
    reads = {"ansible.builtin.import_role": {"name": "release", "tasks_from": "preflight"}}
    done = run_plays(tmp_path, [local_play(reads, release_state_dir="~/x")])
    assert done.returncode == 2, done.stdout
    assert "athena_state_dir must be a whole path, without `~`; it is ~/x." in done.stdout + done.stderr
    assert "Nothing was changed." in done.stdout + done.stderr


def test_of_a_folder_that_we_may_not_write_and_of_one_with_files_of_others_it_is_said_what_to_do(
    preflight: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(preflight.check_folder(tmp_path / "a" / "b", 0)) == []
    (tmp_path / "diary").touch()
    assert list(preflight.check_folder(tmp_path / "a" / "b", 0)) == []
    (held,) = preflight.check_folder(tmp_path, 0)
    assert held.startswith(f"{tmp_path} holds files that are not of a deployment")
    (file,) = preflight.check_folder(tmp_path / "diary", 0)
    assert file.startswith(f"{tmp_path / 'diary'} is not a folder.")
    monkeypatch.setattr(os, "access", lambda *_: False)
    (closed,) = preflight.check_folder(tmp_path / "a", 0)
    assert closed.startswith(f"{tmp_path} is not writable by this user")
    assert all("-e athena_state_dir=FOLDER" in problem for problem in (held, file, closed))
