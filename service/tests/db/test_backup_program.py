"""The program of the backups on a real PostgreSQL: what it does where the database is damaged, or the server goes."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from loading import load

from tests.support.postgres import PASSWORD, PostgresServer

LIVE = "athena"


class Environment:
    """A database with a table, its server, and the program with its settings."""

    def __init__(self, server: PostgresServer, program: ModuleType, folder: Path) -> None:
        self.server, self.program = server, program
        self.settings = program.Settings(LIVE, server.port, "127.0.0.1", folder, keep=14, reserve_bytes=0)
        self.backups = program.Backups(self.settings)

    def ask(self, query: str, database: str = LIVE) -> list[Any]:
        """Return the first column of what a query answers."""
        with psycopg.connect(self.server.url(database), autocommit=True) as connection:
            answered = connection.execute(query.encode())
            return [row[0] for row in answered.fetchall()] if answered.description else []

    def closed(self) -> list[str]:
        """Return the databases that let nobody in."""
        return self.ask("SELECT datname FROM pg_database WHERE NOT datallowconn AND NOT datistemplate", "postgres")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL with checksums, whose superuser has the name that a package's has."""
    server = PostgresServer()
    try:
        server.start()
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE postgres LOGIN SUPERUSER PASSWORD '{PASSWORD}'".encode())
        yield server
    finally:
        server.remove()


@pytest.fixture
def environment(server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """A database with a table of three rows."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("PGUSER", "postgres")
    monkeypatch.setenv("PATH", str(server.binaries), prepend=":")
    environment = Environment(server, load("roles/backup/files/athena_backup.py"), tmp_path)
    environment.ask("CREATE TABLE things AS SELECT generate_series(1, 3) AS thing")
    yield environment
    if server.process is None or server.process.poll() is not None:
        server.start()
    for name in environment.ask("SELECT datname FROM pg_database WHERE datname LIKE 'athena%'", "postgres"):
        environment.ask(f"DROP DATABASE {name} WITH (FORCE)", "postgres")
    environment.ask(f"CREATE DATABASE {LIVE}", "postgres")


def overwrite_a_page(environment: Environment) -> None:
    """Have the table's file be another than PostgreSQL wrote."""
    file = environment.server.data / environment.ask("SELECT pg_relation_filepath('things')")[0]
    environment.server.stop()
    content = bytearray(file.read_bytes())
    content[4000:4100] = b"x" * 100
    file.write_bytes(content)
    environment.server.start()


def lose_a_file(environment: Environment) -> None:
    """Have a file be away without which nobody gets into the database."""
    oid = environment.ask("SELECT oid FROM pg_database WHERE datname = 'athena'")[0]
    (environment.server.data / "base" / str(oid) / "PG_VERSION").unlink()


@pytest.mark.parametrize(
    ("damage", "why"),
    [(overwrite_a_page, "pg_dump failed: .*invalid page"), (lose_a_file, "PG_VERSION")],
    ids=["a page", "the database"],
)
def test_a_damaged_database_is_not_backed_up_and_bars_no_restoration(
    environment: Environment, damage: Callable[[Environment], None], why: str
) -> None:
    made = environment.backups.make()
    damage(environment)
    answer = environment.backups.make_before(made["id"])
    assert answer.keys() == {"id", "why"}
    assert answer["id"] == ""
    assert re.search(why, answer["why"], re.DOTALL)
    restored = environment.backups.restore(made["id"])
    assert environment.ask("SELECT thing FROM things ORDER BY 1") == [1, 2, 3]
    names = environment.ask("SELECT datname FROM pg_database WHERE datname LIKE 'athena%'", "postgres")
    assert set(names) == {LIVE, restored["previous"]}
    assert [one["id"] for one in environment.backups.listing()] == [made["id"]]


def test_a_disk_without_room_for_the_backup_before_is_refused_because_that_can_be_mended(
    environment: Environment,
) -> None:
    made = environment.backups.make()
    settings = replace(environment.settings, reserve_bytes=1 << 60)
    with pytest.raises(environment.program.RefusedError, match="Make room there"):
        environment.program.Backups(settings).make_before(made["id"])
