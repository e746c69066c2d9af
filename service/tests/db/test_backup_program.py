"""The program of the backups on a real PostgreSQL: what it does where the database is damaged, or the server goes."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from loading import load

from tests.support.postgres import PASSWORD, PostgresServer

LIVE = "registry"  # another than the one by which the server is known to answer


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
    environment.ask(f"CREATE DATABASE {LIVE}", "postgres")
    environment.ask("CREATE TABLE things AS SELECT generate_series(1, 3) AS thing")
    yield environment
    if server.process is None:
        server.start()
    for name in environment.ask("SELECT datname FROM pg_database WHERE datname LIKE 'registry%'", "postgres"):
        environment.ask(f"DROP DATABASE {name} WITH (FORCE)", "postgres")


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
    oid = environment.ask("SELECT oid FROM pg_database WHERE datname = 'registry'")[0]
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
    names = environment.ask("SELECT datname FROM pg_database WHERE datname LIKE 'registry%'", "postgres")
    assert set(names) == {LIVE, restored["previous"]}
    assert [one["id"] for one in environment.backups.listing()] == [made["id"]]


def test_a_disk_without_room_for_the_backup_before_is_refused_because_that_can_be_mended(
    environment: Environment,
) -> None:
    made = environment.backups.make()
    settings = replace(environment.settings, reserve_bytes=1 << 60)
    with pytest.raises(environment.program.RefusedError, match="Make room there"):
        environment.program.Backups(settings).make_before(made["id"])


@contextmanager
def happening(environment: Environment, statement: str, then: Callable[[], None]) -> Iterator[None]:
    """Have something happen, or the answer be lost, once the program has executed a statement."""
    connection = environment.program.connection
    cursor = environment.program.psycopg2.extensions.cursor

    def execute(self: Any, text: Any, values: Any = None) -> None:
        cursor.execute(self, text, values)
        if text == statement:
            then()

    @contextmanager
    def watched(*where: Any) -> Iterator[Any]:
        with connection(*where) as opened:
            opened.cursor_factory = type("Watched", (cursor,), {"execute": execute})
            yield opened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment.program, "connection", watched)
        yield


def test_a_server_that_goes_away_once_the_backup_is_in_place_makes_no_failure_of_it(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    made = environment.backups.make()
    environment.ask("INSERT INTO things VALUES (4)")
    with happening(environment, "COMMIT", environment.server.stop):
        previous = environment.backups.restore(made["id"])["previous"]
    assert f"The backup is in place. {previous} lets nobody in until the next one is made" in capsys.readouterr().err
    environment.server.start()
    assert environment.ask("SELECT count(*) FROM things") == [3]
    assert environment.closed() == [previous]


def test_a_commit_whose_answer_is_lost_is_known_by_what_is_in_place(
    environment: Environment,
) -> None:
    def lost() -> None:
        raise environment.program.psycopg2.OperationalError("server closed the connection unexpectedly")

    made = environment.backups.make()
    environment.ask("INSERT INTO things VALUES (4)")
    with happening(environment, "COMMIT", lost):
        previous = environment.backups.restore(made["id"])["previous"]
    assert environment.ask("SELECT count(*) FROM things") == [3]
    assert environment.ask("SELECT count(*) FROM things", previous) == [4]
    assert environment.closed() == []


def test_where_the_databases_cannot_be_renamed_the_one_of_now_is_as_it_was_and_open(
    environment: Environment,
) -> None:
    def refused() -> None:
        raise environment.program.psycopg2.OperationalError("of a test")

    made = environment.backups.make()
    environment.ask("INSERT INTO things VALUES (4)")
    with happening(environment, "BEGIN", refused), pytest.raises(environment.program.psycopg2.Error, match="of a test"):
        environment.backups.restore(made["id"])
    assert environment.ask("SELECT count(*) FROM things") == [4]
    assert environment.closed() == []


def test_where_the_server_goes_away_before_the_commit_it_is_said_how_to_know_what_is_in_place(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = environment.backups.make()
    environment.ask("INSERT INTO things VALUES (4)")
    monkeypatch.setattr(environment.program.Settings, "load", lambda: environment.settings)
    with happening(environment, "BEGIN", environment.server.stop), pytest.raises(SystemExit) as ended:
        environment.program.main(["restore", made["id"]])
    assert ended.value.code == 4
    said = capsys.readouterr().err
    assert re.search(
        r"If there is a database registry_before_\w+, the backup is in place; if not, registry is as it was", said
    )
    environment.server.start()
    assert environment.closed() == [LIVE]
    environment.backups.open_again()
    assert environment.ask("SELECT count(*) FROM things") == [4]
