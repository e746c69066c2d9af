"""When the role `service_package` takes a version as installed, and what it refuses to build."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from loading import ROOT
from playing import run_plays

VERSION = "1.0+gabc"


def have_version(folder: Path, python: Path, *, is_complete: bool = True, is_in_force: bool = True) -> None:
    """Have the environment of a version, as `install` leaves it."""
    environment = folder / "versions" / VERSION
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(python)
    if is_complete:
        (environment / "complete").write_text("sha256:abc\n")
    if is_in_force:
        (folder / "current").symlink_to(environment)


def play(folder: Path, *tasks: dict[str, Any], **variables: Any) -> str:
    """Run tasks with the role's folders below one of the test's own; return what was said."""
    given = {
        "ansible_python_interpreter": sys.executable,
        "service_package_root": str(folder / "versions"),
        "service_package_current": str(folder / "current"),
        "service_package_version": VERSION,
        "service_package_digest": "sha256:abc",
        **variables,
    }
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": list(tasks)}]
    done = run_plays(folder, plays, variables=given)
    return done.stdout + done.stderr


def is_installed(folder: Path) -> bool:
    """Ask `plan`."""
    answer = folder / "answer"
    play(
        folder,
        {"ansible.builtin.import_role": {"name": "service_package", "tasks_from": "plan"}},
        {"ansible.builtin.copy": {"content": "{{ service_package_is_installed | to_json }}", "dest": str(answer)}},
    )
    found: bool = json.loads(answer.read_text())
    return found


@pytest.mark.parametrize("is_in_force", [True, False], ids=["in force", "kept"])
def test_a_version_is_installed_that_is_whole_and_has_its_python(tmp_path: Path, is_in_force: bool) -> None:
    have_version(tmp_path, Path(sys.executable), is_in_force=is_in_force)
    assert is_installed(tmp_path)


@pytest.mark.parametrize("is_in_force", [True, False], ids=["in force", "kept"])
def test_a_version_whose_python_has_gone_is_installed_anew(tmp_path: Path, is_in_force: bool) -> None:
    have_version(tmp_path, tmp_path / "Cellar" / "gone", is_in_force=is_in_force)
    assert not is_installed(tmp_path)


@pytest.mark.parametrize("is_in_force", [True, False], ids=["in force", "kept"])
def test_a_version_that_was_left_half_installed_is_installed_anew(tmp_path: Path, is_in_force: bool) -> None:
    have_version(tmp_path, Path(sys.executable), is_complete=False, is_in_force=is_in_force)
    assert not is_installed(tmp_path)


def test_a_version_of_before_is_not_made_of_the_source_of_now(tmp_path: Path) -> None:
    have_version(tmp_path, tmp_path / "Cellar" / "gone")
    said = play(
        tmp_path,
        {"ansible.builtin.import_role": {"name": "service_package"}},
        service_package_source=str(ROOT / "service"),
        service_package_uv=shutil.which("uv"),
    )
    assert f"service_package_version: {tmp_path}/versions/{VERSION} is not there with a Python that runs" in said
    assert "Nothing was changed: install the Python that it had" in said
    assert (tmp_path / "versions" / VERSION / "complete").exists()
