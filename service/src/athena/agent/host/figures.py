"""What is read of a host and of its processes. None means that it cannot be read here, or not without root."""

import shutil
from pathlib import Path
from typing import Protocol

import msgspec


class HostFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a host. Sizes are in bytes, times in seconds, temperatures in degrees Celsius by sensor.

    `memory_wired_limit` is what the GPU may pin of the memory, where somebody has set it. `speed_limit` is per cent of
    the processor's speed, below 100 while the system throttles it; `thermal_warning` is the system's own level of
    alarm, 0 for none; `thermal_pressure` is how much heat presses it, from 0, nominal, to 4.
    """

    memory_total: int | None = None
    memory_available: int | None = None
    memory_wired: int | None = None
    memory_wired_limit: int | None = None
    disk_total: int | None = None
    disk_free: int | None = None
    uptime: float | None = None
    temperatures: dict[str, float] = {}
    speed_limit: float | None = None
    thermal_warning: int | None = None
    thermal_pressure: int | None = None
    gpu_percent: float | None = None


class ProcessFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a process and its descendants together; `age` in seconds and `arguments` are the process's own."""

    pid: int
    resident: int
    cpu_seconds: float
    age: float
    arguments: tuple[str, ...] = ()


class Host(Protocol):
    """Reads the figures of one kind of system. Nothing raises: what cannot be read is None."""

    async def figures(self) -> HostFigures:
        """Return the figures of the host."""
        ...

    async def process(self, pid: int) -> ProcessFigures | None:
        """Return the figures of a process with all its descendants; None where it is gone."""
        ...

    async def connections(self, port: int) -> int | None:
        """Return how many connections to a local port are open."""
        ...

    async def gpu_percent(self) -> float | None:
        """Return how much of the GPU is in use, in per cent."""
        ...


class Row(msgspec.Struct, frozen=True):
    """One process of the system's table."""

    pid: int
    parent: int
    resident: int
    cpu_seconds: float
    age: float


def with_descendants(rows: list[Row], pid: int, arguments: tuple[str, ...]) -> ProcessFigures | None:
    """Return a process and all below it as one; None where it is not in the table."""
    by_pid = {row.pid: row for row in rows}
    if pid not in by_pid:
        return None
    children: dict[int, list[Row]] = {}
    for row in rows:
        children.setdefault(row.parent, []).append(row)
    found, waiting = {pid: by_pid[pid]}, [pid]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child.pid not in found:
                found[child.pid] = child
                waiting.append(child.pid)
    return ProcessFigures(
        pid=pid,
        resident=sum(row.resident for row in found.values()),
        cpu_seconds=sum(row.cpu_seconds for row in found.values()),
        age=by_pid[pid].age,
        arguments=arguments,
    )


def disk_space(folder: Path) -> tuple[int | None, int | None]:
    """Return the size of a folder's file system and what is free of it, both None where the folder is not there."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None, None
    return usage.total, usage.free


def model_in(arguments: tuple[str, ...]) -> str | None:
    """Return the model that a command line names by `--model NAME` or `--model=NAME`; None where it names none."""
    for position, argument in enumerate(arguments):
        if argument == "--model" and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith("--model="):
            return argument.removeprefix("--model=")
    return None
