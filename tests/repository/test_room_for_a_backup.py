"""What the program of the backups, and the look at its host, say of a disk that has no room for the next one."""

import json
import os
import shutil
import sys
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from loading import ROOT, load
from playing import run_plays

MIB = 1 << 20
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, on a machine that has no client of PostgreSQL."""
    client: Any = ModuleType("psycopg2")
    client.sql, client.Error = ModuleType("sql"), RuntimeError
    monkeypatch.setitem(sys.modules, "psycopg2", client)
    monkeypatch.setitem(sys.modules, "psycopg2.sql", client.sql)
    return load("roles/backup/files/athena_backup.py")


class Server:
    """A connection, and its cursor, to a server with a database of a size, or without one."""

    def __init__(self, rows: list[tuple[str, int]]) -> None:
        self._rows = rows

    def cursor(self) -> "Server":
        return self

    def execute(self, *_: object) -> None:
        """Take any question."""

    def fetchall(self) -> list[tuple[str, int]]:
        return self._rows


@pytest.mark.parametrize(
    "disk",
    [(3999, 3000, 4000), (4000, 3000, None), (999, None, 1000), (1000, None, None)],
    ids=["too little", "enough", "too little and no database", "enough and no database"],
)
def test_a_backup_needs_the_size_of_the_database_and_what_must_stay_free(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disk: tuple[int, int | None, int | None]
) -> None:
    """Of a disk what is free, of a database its size, and what is needed where that is more; in MiB."""
    free, size, needed = disk
    rows = [] if size is None else [(str(tmp_path), size * MIB)]

    @contextmanager
    def connection(*_: object) -> Iterator[Server]:
        yield Server(rows)

    monkeypatch.setattr(program, "connection", connection)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free * MIB))
    settings = program.Settings("athena", 5432, "/nowhere", tmp_path, 14, 1).with_reserve([str(1000 * MIB)])
    told = program.Backups(settings).room()
    if needed is None:
        assert told == []
        program.need_space(tmp_path, (size or 0) * MIB, settings)
    else:
        assert len(told) == 1  # one disk has both, the backups and the data
        assert told[0].startswith(f"{tmp_path} has {free} MiB free, {needed} are needed, with backup_reserve_bytes.")
        with pytest.raises(program.RefusedError, match=f"{needed} are needed"):
            program.need_space(tmp_path, (size or 0) * MIB, settings)


def test_the_look_at_the_host_tells_of_it_in_the_words_of_the_program(tmp_path: Path) -> None:
    """With a `runuser` of the test's own, which answers as the program would for the reserve that it is given."""
    answer = json.dumps(["/var/backups has 2000 MiB free, 3500 are needed."])
    (tmp_path / "runuser").write_text(f"#!/bin/sh\necho \"$@\" >{tmp_path}/asked\necho '{answer}'\n")
    (tmp_path / "runuser").chmod(0o755)
    tasks = yaml.safe_load((ROOT / "playbooks/tasks/cluster/look_at_host.yml").read_text())
    tasks.append({"ansible.builtin.debug": {"msg": "It says: {{ host_problems | to_json }}"}})
    plays = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "environment": {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            "tasks": tasks,
        }
    ]
    variables = {
        "ansible_python_interpreter": sys.executable,
        "ansible_become": False,
        "backup_reserve_bytes": 700,
        "backup_dir": str(tmp_path),
    }
    done = run_plays(tmp_path, plays, variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.partition("It says: ")[2].splitlines()[0])
    assert "localhost: has no room for a backup: /var/backups has 2000 MiB free, 3500 are needed." in told
    assert (tmp_path / "asked").read_text().split()[-3:] == ["/usr/local/sbin/athena-backup", "room", "700"]
