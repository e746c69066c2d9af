"""A change of what manifests are rendered from makes another release, as it starts pods anew."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import run_plays

SETTINGS = ROOT / "group_vars/cluster/release.yml"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for role in ("kubernetes_app", "redis"):
        shutil.copytree(ROOT / "roles" / role, tmp_path / "roles" / role)
    (tmp_path / "playbooks").mkdir()
    return tmp_path


def recorded(checkout: Path, **facts: Any) -> str:
    """Return what a release of the checkout has as its manifests."""
    told = {"ansible.builtin.debug": {"msg": "told <{{ release_content.manifests }}>"}}
    known = {"ansible_python_interpreter": sys.executable, "athena_redis_image": "none", **facts}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars_files": [str(SETTINGS)]}
    if facts.get("renders"):
        rendered = {"ansible.builtin.set_fact": {"athena_manifests_rendered": "{{ athena_manifests }}"}}
        tasks = [rendered, told]
    else:
        tasks = [told]
    done = run_plays(checkout / "playbooks", [{**play, "tasks": tasks}], variables=known)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = re.findall(r"told <(.*)>", done.stdout)
    return str(found)


def test_it_is_another_where_a_template_or_a_setting_changes_and_not_where_a_text_for_readers_does(
    checkout: Path,
) -> None:
    before = recorded(checkout, renders=True)
    assert re.fullmatch("[0-9a-f]{16}", before)
    (checkout / "roles/kubernetes_app/README.md").write_text("Another text.\n")
    assert recorded(checkout, renders=True) == before
    seen = {before}
    for name in (
        "kubernetes_app/templates/pod.yaml.j2",
        "kubernetes_app/defaults/main.yml",
        "redis/tasks/application.yml",
    ):
        with (checkout / "roles" / name).open("a") as file:
            file.write("# changed\n")
        now = recorded(checkout, renders=True)
        assert now not in seen
        seen.add(now)


@pytest.mark.parametrize(
    ("replaced", "kept"),
    [({"content": {"manifests": "of-before"}}, "of-before"), ({"content": {"version": "1"}}, ""), (None, "")],
    ids=["recorded", "from before it was recorded", "none"],
)
def test_what_renders_nothing_leaves_it_as_it_was(checkout: Path, replaced: Any, kept: str) -> None:
    assert recorded(checkout, release_replaced=replaced) == kept


def test_every_folder_is_there() -> None:
    folders = yaml.safe_load(SETTINGS.read_text())["athena_manifest_folders"]
    assert [folder for folder in folders if not (ROOT / "roles" / folder).is_dir()] == []
