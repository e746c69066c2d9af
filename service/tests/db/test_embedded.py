import os
import pwd
import subprocess
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psycopg
import pytest

from athena.db import embedded
from athena.db.embedded import EmbeddedPostgresError
from tests.support.postgres import PostgresServer, unprivileged_user

BACK_WITHIN_SECONDS = 5.0


@pytest.fixture
def nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("secret\n")
    return path


def setting(server: PostgresServer, name: str) -> str:
    with psycopg.connect(server.url()) as connection:
        row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])


def test_the_server_listens_on_this_machine_only_and_has_no_socket(database_server: PostgresServer) -> None:
    assert setting(database_server, "listen_addresses") == "127.0.0.1"
    assert setting(database_server, "unix_socket_directories") == ""


def test_the_database_is_utf8_sorts_like_c_and_checks_its_pages(database_server: PostgresServer) -> None:
    assert setting(database_server, "server_encoding") == "UTF8"
    assert setting(database_server, "data_checksums") == "on"
    with psycopg.connect(database_server.url()) as connection:
        row = connection.execute("SELECT datcollate FROM pg_database WHERE datname = 'athena'").fetchone()
    assert row == ("C",)


def test_a_wrong_password_is_refused(database_server: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(database_server.url().replace("a-password", "another-password"))


def test_the_supervised_process_is_postgres_itself(database_server: PostgresServer) -> None:
    assert database_server.process is not None
    pid = (database_server.data / "postmaster.pid").read_text().split("\n", 1)[0]
    assert int(pid) == database_server.process.pid


def test_the_data_folder_is_made_once(database_server: PostgresServer) -> None:
    made_again = embedded.initdb(
        database_server.data,
        database_server.folder / "password",
        binaries=database_server.binaries,
        user=database_server.user,
    )
    assert made_again is False


def test_an_empty_password_leaves_no_data_folder_behind(tmp_path: Path, password_file: Path) -> None:
    password_file.write_text("\n")
    with pytest.raises(EmbeddedPostgresError, match="no password"):
        embedded.initdb(tmp_path / "data", password_file, user=unprivileged_user())
    assert not (tmp_path / "data").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path, password_file: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="neither empty nor"):
        embedded.initdb(tmp_path, password_file, user=unprivileged_user())
    assert password_file.exists()


def test_a_folder_of_another_major_version_is_refused(tmp_path: Path, password_file: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedPostgresError, match="made by PostgreSQL 17 and this is 18"):
        embedded.initdb(tmp_path, password_file, user=unprivileged_user())


def test_a_folder_that_postgres_may_not_enter_is_named_with_the_remedy(
    tmp_path: Path, nobody: pwd.struct_passwd
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match=r"runs as nobody, who may not enter .*athena_state_dir"):
        embedded.check_reachable(closed / "data", nobody)


def test_a_missing_system_user_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(embedded, "SYSTEM_USER", "athena-nobody-of-this-name")
    with pytest.raises(EmbeddedPostgresError, match=r"useradd --system .* athena-nobody-of-this-name"):
        embedded.system_user()


def test_a_plain_user_runs_postgres_as_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert embedded.system_user() is None


def test_a_copy_of_the_server_runs_anywhere(tmp_path: Path) -> None:
    copy = embedded.copy_binaries(embedded.find_binaries(), tmp_path)
    done = subprocess.run([copy / "psql", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("psql (PostgreSQL) 18")


def test_a_killed_server_is_back_with_its_data_in_five_seconds(own_database_server: PostgresServer) -> None:
    server = own_database_server
    with psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with ExitStack() as clients:
        for _ in range(10):
            clients.enter_context(closing(psycopg.connect(server.url())))
        server.kill()
        began = time.monotonic()
        server.start()
    assert time.monotonic() - began < BACK_WITHIN_SECONDS
    with psycopg.connect(server.url()) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_killed_server_is_back_although_one_of_its_processes_was_busy(own_database_server: PostgresServer) -> None:
    server = own_database_server

    def compute() -> None:
        # Whether its answer still arrives is a matter of luck.
        with suppress(psycopg.OperationalError), psycopg.connect(server.url()) as connection:
            connection.execute("SELECT count(*) FROM generate_series(1, 12000000)")

    client = threading.Thread(target=compute)
    client.start()
    time.sleep(0.3)
    server.kill()
    server.start()
    client.join()
    assert "pre-existing shared memory block" not in server.log()


def test_a_second_server_on_the_same_folder_is_refused(
    database_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "TAKE_OVER_SECONDS", 0.1)
    argv = embedded.command(database_server.data, database_server.port, binaries=database_server.binaries)
    with pytest.raises(EmbeddedPostgresError, match="cannot take over"):
        embedded.take_over(database_server.data, argv, database_server.user)
    psycopg.connect(database_server.url()).close()


def test_a_pid_that_now_belongs_to_another_program_does_not_keep_postgres_down(
    own_database_server: PostgresServer,
) -> None:
    server = own_database_server
    remains = (server.data / "postmaster.pid").read_text().split("\n", 1)[1]
    server.stop()
    with subprocess.Popen(["sleep", "60"], user=server.user.pw_uid if server.user else None) as other:
        (server.data / "postmaster.pid").write_text(f"{other.pid}\n{remains}")
        server.start()
        other.kill()


def test_a_folder_that_was_never_initialised_is_not_run(tmp_path: Path, nobody: pwd.struct_passwd) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    binaries = embedded.find_binaries()
    with pytest.raises(EmbeddedPostgresError, match="run `athena postgres init` first"):
        embedded.run(tmp_path / "data", 20000, binaries=binaries, user=nobody)
