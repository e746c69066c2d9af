"""Processes on chosen cores, and what they use: processor time and memory of a whole process tree."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

GATEWAY_CORE, LOAD_CORE = 0, 1
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "athena-bench"
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class UnavailableError(Exception):
    """Something cannot be had on this machine; the text says why."""


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """Return the command that runs on one core."""
    taskset = shutil.which("taskset")
    if taskset is None:
        raise UnavailableError("taskset is missing (Debian package util-linux)")
    return [taskset, "-c", str(core), *command]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a measured process: this one's, without what only the benchmark itself needs."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(more or {})


@contextmanager
def running(
    command: Sequence[str], *, core: int, port: int, within: float = 20.0, env: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a server on a core until it is no longer needed; gives its process id once it listens.

    What it prints goes to a file, as a service's log does. Raises UnavailableError, with the end of that file, if it
    does not listen in time.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            pinned(core, command), env=environment(env), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + within
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise UnavailableError(f"it did not start:\n{log.read().decode(errors='replace')[-3000:]}")
                time.sleep(0.05)
            yield process.pid
        finally:
            _end(process)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: they share a session."""
    for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait(1)


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found, at = [pid], 0
    while at < len(found):
        for children in Path(f"/proc/{found[at]}/task").glob("*/children"):
            found += map(int, children.read_text(encoding="ascii").split())
        at += 1
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time so far of a process and all its descendants."""
    ticks = 0
    for each in tree(pid):
        fields = Path(f"/proc/{each}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICK


def memory(pid: int) -> float:
    """Return the resident memory, in MB, of a process and all its descendants."""
    pages = (int(Path(f"/proc/{each}/statm").read_text(encoding="ascii").split()[1]) for each in tree(pid))
    return sum(pages) * _PAGE / 1e6


def description() -> str:
    """Return what kind of machine this is."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), os.uname().machine
    )
    return f"{model}, {os.cpu_count()} cores, Linux {os.uname().release}"
