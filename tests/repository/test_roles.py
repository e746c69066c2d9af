"""What holds for every role, and no linter checks."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted((Path(__file__).parents[2] / "roles").iterdir())


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


def described(role: Path) -> dict[str, dict[str, Any]]:
    """Return the arguments of all the role's entries, by name."""
    entries = load(role / "meta" / "argument_specs.yml").get("argument_specs", {})
    return {name: option for entry in entries.values() for name, option in entry.get("options", {}).items()}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_of_a_role_is_described(role: Path) -> None:
    assert sorted(set(load(role / "defaults" / "main.yml")) - set(described(role))) == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_described_argument_has_a_default_or_is_required(role: Path) -> None:
    optional = {name for name, option in described(role).items() if not option.get("required")}
    assert sorted(optional - set(load(role / "defaults" / "main.yml"))) == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_default_that_the_description_names_is_the_one_in_force(role: Path) -> None:
    defaults = load(role / "defaults" / "main.yml")
    stated = {name: option["default"] for name, option in described(role).items() if "default" in option}
    assert stated == {name: defaults[name] for name in stated}


STEPS = sorted(ROLES[0].parent.glob("*/tasks/steps/*.yml"))


@pytest.mark.parametrize("file", STEPS, ids=lambda file: "/".join(file.parts[-4:]))
def test_a_step_names_another_by_its_folder(file: Path) -> None:
    # Ansible looks for a bare name in the folder `tasks` beside the playbook before it looks beside the step.
    named = re.findall(r"include_tasks: \"?([^\"\n]+)", file.read_text())
    tasks = file.parents[1]
    assert [name for name in named if not name.startswith("steps/") and not (tasks / name).exists()] == []


# What a host with engines is made by: these run with the hosts' environment, which may name a proxy.
OF_HOSTS = load(ROLES[0].parent / "fleet" / "vars" / "main.yml")["fleet_roles"]
ASKING = [file for role in OF_HOSTS for file in sorted((ROLES[0].parent / role).glob("tasks/**/*.yml"))]


def questions(tasks: Any) -> list[dict[str, Any]]:
    """Return the arguments of each question of HTTP in a file of tasks, those in its blocks too."""
    asked = []
    for task in tasks or []:
        asked += [task["ansible.builtin.uri"]] if "ansible.builtin.uri" in task else []
        for part in ("block", "rescue", "always"):
            asked += questions(task.get(part))
    return asked


def test_a_host_asks_its_engines_without_a_proxy() -> None:
    asked = {file: questions(yaml.safe_load(file.read_text())) for file in ASKING}
    assert sum(map(len, asked.values())) > len(OF_HOSTS)
    through = [
        file.relative_to(ROLES[0].parent)
        for file, all_of in asked.items()
        for one in all_of
        if one.get("use_proxy", True)
    ]
    assert through == []
