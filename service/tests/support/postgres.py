"""A real PostgreSQL under a test's control: the embedded one, started the way a deployment starts it."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql

from athena.db import embedded
from tests.support.ports import quiet_port

PASSWORD = "a-password-of-these-tests"
READY_WITHIN_SECONDS = 15.0

_OPEN_FOLDER = Path("/tmp")  # noqa: S108  # which every user may enter
# Making and dropping databases is mostly making and deleting files, which is quick in memory.
_MEMORY = Path("/dev/shm")  # noqa: S108  # in which the folders get names of their own
_ROOM_BYTES = 2 << 30
# What makes a server quick that need not survive a power cut.
_FAST = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
_RUN = """
import ast, pwd, sys
from pathlib import Path
from athena.db import embedded
data, port, binaries, user, settings = sys.argv[1:]
embedded.run(Path(data), int(port), binaries=Path(binaries), settings=ast.literal_eval(settings),
             user=pwd.getpwnam(user) if user else None)
"""


def unprivileged_user() -> pwd.struct_passwd | None:
    """Return whom PostgreSQL runs as where the tests run as root: its own user, or `nobody` where that is not made."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(embedded.SYSTEM_USER)
    except KeyError:
        return pwd.getpwnam("nobody")


def quick_folder() -> Path | None:
    """Return a folder in memory with room for databases; None where there is none."""
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES else None


class PostgresServer:
    """An embedded PostgreSQL with a data folder of its own; the same port and data after every start."""

    def __init__(self) -> None:
        self.user = unprivileged_user()
        self.folder = self._new_folder(_OPEN_FOLDER if self.user else None)
        self._data_folder = self._new_folder(quick_folder()) if quick_folder() else self.folder
        self.data = self._data_folder / "data"
        self.port = quiet_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.binaries = embedded.find_binaries()
        try:
            embedded.check_reachable(self.binaries / "postgres", self.user)
        except embedded.EmbeddedPostgresError:
            self.binaries = embedded.copy_binaries(self.binaries, self.folder / "wheel")
        password_file = self.folder / "password"
        password_file.write_text(PASSWORD)
        embedded.initdb(self.data, password_file, binaries=self.binaries, user=self.user)

    @staticmethod
    def _new_folder(parent: Path | None) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="athena-postgres-", dir=parent))
        folder.chmod(0o755)
        return folder

    def url(self, database: str = embedded.DATABASE) -> str:
        """Return the address of one of its databases."""
        return f"postgresql://{embedded.SUPERUSER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        user = self.user.pw_name if self.user else ""
        arguments = [str(self.data), str(self.port), str(self.binaries), user, repr(_FAST)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", _RUN, *arguments], stdout=log, stderr=log)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it takes connections; fails with its log where it does not."""
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                assert self.process is not None
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """Kill its first process (kill -9), as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze all of it, as a host that stands still does: the kernel takes connections, nobody answers."""
        first = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(first, signal.SIGSTOP)  # before its children, so that there are no new ones
        subprocess.run(["pkill", "-STOP", "-P", str(first)], check=True)
        try:
            yield
        finally:
            subprocess.run(["pkill", "-CONT", "-P", str(first)], check=True)
            os.kill(first, signal.SIGCONT)

    def stop(self) -> None:
        """End it properly; no harm if it is down already."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)
        self.process = None

    def remove(self) -> None:
        """End it and delete its folders."""
        self.stop()
        for folder in {self.folder, self._data_folder}:
            shutil.rmtree(folder)

    def log(self) -> str:
        """Return what it has logged."""
        return (self.folder / "log").read_text(errors="replace")

    def create_database(self, template: str | None = None) -> str:
        """Make a database, as a copy of another one if need be; returns its name."""
        name = f"test_{uuid4().hex}"
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(template))
        self._execute(statement)
        return name

    def replace_database(self, name: str) -> str:
        """Put a copy of a database in its place, as a restoration does; returns the name of the one before."""
        before = f"{name}_before"
        live, aside = sql.Identifier(name), sql.Identifier(before)
        self._execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(live))
        end_sessions = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = {}"
        self._execute(sql.SQL(end_sessions).format(sql.Literal(name)))
        self._execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(live, aside))
        self._execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(live, aside))
        return before

    def drop_database(self, name: str) -> None:
        """Delete a database, whoever is connected to it."""
        self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)
