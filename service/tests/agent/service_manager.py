"""A stand-in for `systemctl` and `launchctl`: keeps jobs running as they are told, and a journal of what it was told.

It is put in the place of both on PATH. What it knows of a job is in one file: the command that runs it, and the id of
the process that does.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.faults.process import SERVICE


class ServiceManager:
    """The manager of one test, in `folder`; `bin` goes before all else on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        for name in ("systemctl", "launchctl"):
            program = self.bin / name
            program.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(SERVICE)!r})\n" + _PROGRAM)
            program.chmod(0o755)

    @property
    def path(self) -> str:
        """PATH with the stand-ins in front."""
        return f"{self.bin}:{os.environ['PATH']}"

    def add(self, job: str, *command: str) -> None:
        """Make a job known, and start it."""
        self._write(job, {"command": command, "pid": None})
        restart(self.folder, job)

    def adopt(self, job: str, pid: int) -> None:
        """Make a job known whose process runs already; to start it anew is to let that go on, with SIGCONT."""
        self._write(job, {"command": None, "pid": pid})

    def change(self, job: str, *command: str) -> None:
        """Have the job be another command from its next start on."""
        self._write(job, {**_read(self.folder, job), "command": command})

    def refuse(self) -> None:
        """Fail from now on to start anything anew, as for somebody who may not."""
        (self.folder / "refuses").touch()

    def pid(self, job: str) -> int:
        """Return the process id of a job."""
        pid: int = _read(self.folder, job)["pid"]
        return pid

    def signal(self, job: str, number: signal.Signals) -> None:
        """Send a signal to a job's process, past the manager."""
        os.kill(self.pid(job), number)

    def restarts(self) -> list[list[str]]:
        """Return the commands to start a job anew that it was given, each with its program's name."""
        journal = self.folder / "journal"
        lines = journal.read_text().splitlines() if journal.exists() else []
        return [told for told in map(json.loads, lines) if {"restart", "kickstart"} & set(told)]

    def _write(self, job: str, value: dict[str, Any]) -> None:
        _file(self.folder, job).write_text(json.dumps(value))


@contextmanager
def service_manager(folder: Path) -> Iterator[ServiceManager]:
    """Manage services for as long as the context is entered; then all of them end."""
    manager = ServiceManager(folder)
    try:
        yield manager
    finally:
        for file in folder.glob("*.job"):
            known = json.loads(file.read_text())
            if known["command"] is not None and known["pid"] is not None:
                with suppress(ProcessLookupError):
                    os.kill(known["pid"], signal.SIGKILL)


_PROGRAM = """
from pathlib import Path
from tests.agent.service_manager import main
program = Path(__file__)
main(program.parent.parent, program.name, sys.argv[1:])
"""


def main(folder: Path, program: str, arguments: list[str]) -> None:
    """Do what a command line asks, as far as an agent asks it."""
    with (folder / "journal").open("a") as journal:
        journal.write(json.dumps([program, *arguments]) + "\n")
    job = arguments[-1].rpartition("/")[2]
    if not _file(folder, job).exists():
        sys.exit(f"no job {job}")
    pid = _read(folder, job)["pid"]
    match [argument for argument in arguments[:-1] if not argument.startswith("-")]:
        case ["show"]:
            print(pid or 0)  # noqa: T201
        case ["print"]:
            print(f"{arguments[-1]} = {{\n\tstate = running\n\tpid = {pid}\n\tlast exit code = 0\n}}")  # noqa: T201
        case ["restart"] | ["kickstart"]:
            if (folder / "refuses").exists():
                sys.exit("Access denied")
            restart(folder, job)
        case other:
            sys.exit(f"unknown command {other}")


def restart(folder: Path, job: str) -> None:
    """End a job's process and start another."""
    known = _read(folder, job)
    if known["command"] is None:
        os.killpg(known["pid"], signal.SIGCONT)
        return
    if known["pid"] is not None:
        with suppress(ProcessLookupError):
            os.kill(known["pid"], signal.SIGKILL)
    with (folder / f"{job}.log").open("ab") as log:
        process = subprocess.Popen(
            known["command"], cwd=SERVICE, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    process.returncode = 0  # it is nobody's child to wait for
    _file(folder, job).write_text(json.dumps({**known, "pid": process.pid}))


def _file(folder: Path, job: str) -> Path:
    return folder / f"{job}.job"


def _read(folder: Path, job: str) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(_file(folder, job).read_text())
    return known
