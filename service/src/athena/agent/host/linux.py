"""Figures of a Linux host, from /proc and /sys."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from athena.agent.host.figures import HostFigures, ProcessFigures, Row, disk_space, with_descendants

_PROC, _THERMAL = Path("/proc"), Path("/sys/class/thermal")
_ESTABLISHED = "01"
_BEYOND_BELIEF = 200.0  # degrees; sensors that are not connected tell such numbers


def parse_meminfo(text: str) -> tuple[int | None, int | None]:
    """Return the total and the available memory of /proc/meminfo, in bytes."""
    kilobytes = {
        name: int(value.split()[0])
        for name, colon, value in (line.partition(":") for line in text.splitlines())
        if colon and value.split()[:1] and value.split()[0].isdecimal()
    }
    total, available = kilobytes.get("MemTotal"), kilobytes.get("MemAvailable")
    return (None if total is None else total * 1024, None if available is None else available * 1024)


def parse_uptime(text: str) -> float | None:
    """Return the seconds since the system's start of /proc/uptime."""
    words = text.split()
    try:
        return float(words[0])
    except (IndexError, ValueError):
        return None


def parse_temperature(text: str) -> float | None:
    """Return the degrees Celsius of a thermal zone, which counts in thousandths; None for what no sensor measures."""
    try:
        degrees = int(text) / 1000
    except ValueError:
        return None
    return degrees if -_BEYOND_BELIEF < degrees < _BEYOND_BELIEF else None


def parse_stat(text: str, *, ticks: int, page: int, uptime: float) -> Row:
    """Return what /proc/PID/stat tells; its name may hold spaces and brackets. Raises ValueError, IndexError.

    `ticks` are those of a second of processor time, `page` the bytes of a page of memory.
    """
    before, _, after = text.rpartition(")")
    fields = after.split()
    return Row(
        pid=int(before.split(" ", 1)[0]),
        parent=int(fields[1]),
        resident=int(fields[21]) * page,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / ticks,
        age=max(0.0, uptime - int(fields[19]) / ticks),
    )


def parse_connections(text: str, port: int) -> int:
    """Return how many connections to a local port /proc/net/tcp or tcp6 has, seen from whoever listens there."""
    wanted = f":{port:04X}"
    rows = (line.split() for line in text.splitlines()[1:])
    return sum(len(row) > 3 and row[1].endswith(wanted) and row[3] == _ESTABLISHED for row in rows)  # noqa: PLR2004


class LinuxHost:
    """Reads /proc and /sys. Figures of the GPU are not read: there is no one place for them."""

    def __init__(self, disk: Path, *, proc: Path = _PROC, thermal: Path = _THERMAL) -> None:
        self._disk = disk
        self._proc = proc
        self._thermal = thermal

    async def figures(self) -> HostFigures:
        """Return the figures of the host."""
        return await asyncio.to_thread(self._figures)

    async def process(self, pid: int) -> ProcessFigures | None:
        """Return the figures of a process with all its descendants."""
        return await asyncio.to_thread(self._process, pid)

    async def connections(self, port: int) -> int | None:
        """Return how many connections to a local port are open."""
        return await asyncio.to_thread(self._connections, port)

    async def gpu_percent(self) -> float | None:
        """Return None."""
        return None

    def _figures(self) -> HostFigures:
        total, available = parse_meminfo(_text(self._proc / "meminfo"))
        disk_total, disk_free = disk_space(self._disk)
        return HostFigures(
            memory_total=total,
            memory_available=available,
            disk_total=disk_total,
            disk_free=disk_free,
            uptime=parse_uptime(_text(self._proc / "uptime")),
            temperatures=dict(self._temperatures()),
        )

    def _temperatures(self) -> Iterator[tuple[str, float]]:
        for zone in sorted(self._thermal.glob("thermal_zone*")):
            degrees = parse_temperature(_text(zone / "temp"))
            if degrees is not None:
                yield f"{zone.name.removeprefix('thermal_zone')}:{_text(zone / 'type').strip()}", degrees

    def _process(self, pid: int) -> ProcessFigures | None:
        arguments = tuple(_text(self._proc / str(pid) / "cmdline").split("\0")[:-1])
        return with_descendants(list(self._rows()), pid, arguments)

    def _rows(self) -> Iterator[Row]:
        uptime = parse_uptime(_text(self._proc / "uptime")) or 0.0
        ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        for stat in self._proc.glob("[0-9]*/stat"):
            try:
                yield parse_stat(_text(stat), ticks=ticks, page=page, uptime=uptime)
            except (ValueError, IndexError):
                continue  # it has just ended

    def _connections(self, port: int) -> int | None:
        tables = [_text(self._proc / "net" / name) for name in ("tcp", "tcp6")]
        return sum(parse_connections(table, port) for table in tables) if any(tables) else None


def _text(file: Path) -> str:
    """Return what is in a file; nothing where it is not there, or not ours to read."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
