"""The backup from before a migration that cannot be taken back: it is kept first, or nothing is migrated.

Of one that was just proven it is told when.

The tasks are those of a deployment to a cluster; the programs that they call on the hosts only note that they were.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import run_plays

LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
# Nothing listens on the port `discard`.
AWAY = LOCAL | {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}
FINAL = {"revision": "b", "title": "Drop a column", "reversible": False, "previous_code_runs": False}
# What a backup is described with, one that was not proven and one that was.
BACKUP = """if [ "$1" = verify ]; then at='"2026-01-02"'; else at=null; fi
echo '{"id": "made-now", "changed": true, "tables": 1, "rows": 2, "size": 3, "path": "/x", "proven_at": '"$at}"
"""
SCHEMA = {"current": "a", "head": "b", "ahead": False}


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    """The folder in which the play runs, with programs that note their calls in its file `calls`."""
    for name, answers in {
        "athena": """if [ "$2" = --show ]; then cat "$here/shown"; fi""",
        "athena-backup": BACKUP,
    }.items():
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nhere=$(dirname "$0")\necho "{name}" "$@" >>"$here/calls"\n{answers}\n')
        program.chmod(0o755)
    (tmp_path / "url").write_text("postgresql://nobody@127.0.0.1:9/none\n")
    return tmp_path


def migrate(folder: Path, database: dict[str, Any], pending: list[dict[str, Any]], **variables: Any) -> list[str]:
    """Migrate as a deployment does, with a way back; return which programs were called."""
    (folder / "shown").write_text(json.dumps(SCHEMA | {"pending": pending}))
    inventory = {"cluster": {"hosts": {"localhost": LOCAL}}, "database": {"hosts": {"db": database}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    tasks = [
        {
            "block": [{"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/cluster/schema.yml")}],
            "rescue": [
                {"ansible.builtin.copy": {"content": "{{ ansible_failed_result.msg }}", "dest": str(folder / "cause")}}
            ],
        }
    ]
    play = {"hosts": "cluster", "gather_facts": False, "tasks": tasks}
    settings = {
        "schema_athena": str(folder / "athena"),
        "schema_database_url_file": str(folder / "url"),
        "schema_allow_irreversible": True,
        "backup_program": str(folder / "athena-backup"),
        "athena_database_is_external": False,
        "athena_return_is_judged": False,
        **variables,
    }
    done = run_plays(folder, [play], inventory=folder / "hosts.yml", variables=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "calls").read_text().splitlines()


def test_the_backup_of_this_run_is_kept_before_the_migration(migrated: Path) -> None:
    assert migrate(migrated, LOCAL, [FINAL], athena_backup={"id": "of-this-run"}) == [
        "athena migrate --show",
        "athena-backup keep of-this-run",
        "athena migrate",
    ]


def test_where_the_run_has_made_no_backup_one_is_made_and_proven_first(migrated: Path) -> None:
    assert migrate(migrated, LOCAL, [FINAL]) == [
        "athena migrate --show",
        "athena-backup make",
        "athena-backup verify made-now",
        "athena-backup keep made-now",
        "athena migrate",
    ]


@pytest.mark.parametrize("made", [{}, {"athena_backup": {"id": "of-this-run"}}], ids=["made now", "made before"])
def test_nothing_is_migrated_where_the_host_of_the_backups_is_away_and_the_run_goes_back(
    migrated: Path, made: dict[str, Any]
) -> None:
    assert migrate(migrated, AWAY, [FINAL], **made) == ["athena migrate --show"]
    assert "The host of the backups is out of reach" in (migrated / "cause").read_text()


def test_a_migration_that_can_be_taken_back_needs_no_host(migrated: Path) -> None:
    assert migrate(migrated, AWAY, [FINAL | {"reversible": True}]) == ["athena migrate --show", "athena migrate"]
    assert not (migrated / "cause").exists()


def backed_up(folder: Path, plays: list[dict[str, Any]]) -> str:
    """Run plays on a controller and a host of the database; return what they say."""
    inventory = {"cluster": {"hosts": {"localhost": LOCAL}}, "database": {"hosts": {"db": LOCAL}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    settings = {
        "backup_program": str(folder / "athena-backup"),
        "athena_database_is_external": False,
        "release_json": True,
    }
    done = run_plays(folder, plays, inventory=folder / "hosts.yml", variables=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_programs_are_told_when_a_backup_was_proven(migrated: Path) -> None:
    (migrated / "tasks").symlink_to(ROOT / "playbooks" / "tasks")
    said = backed_up(migrated, yaml.safe_load((ROOT / "playbooks" / "backup.yml").read_text()))
    assert '"proven_at": "2026-01-02"' in said


def test_so_is_the_ledger_where_a_deployment_has_made_it(migrated: Path) -> None:
    makes = {"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/cluster/make_backup.yml")}
    ready = {"ansible.builtin.set_fact": {"database_is_ready": True}}
    goes_on = {"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/cluster/go_on.yml")}
    told = {"ansible.builtin.debug": {"msg": "Remembered: {{ athena_backup.proven_at }}"}}
    plays = [
        {"hosts": "database", "gather_facts": False, "tasks": [makes, ready]},
        {"hosts": "cluster", "gather_facts": False, "tasks": [goes_on, told]},
    ]
    assert "Remembered: 2026-01-02" in backed_up(migrated, plays)
