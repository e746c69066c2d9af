"""Figures of a Mac, by the programs that come with macOS.

What macOS tells root alone (`powermetrics`: temperatures of the chip, fans, watts) is not read. Without root there are
the system's level of thermal pressure, by `notifyutil`; the thermal warnings of `pmset`, of which Apple silicon
normally records none; and on Intel the limit of the processor's speed.
"""

import asyncio
import re
import shlex
import time
from pathlib import Path

from athena.agent.commands import READ_SECONDS, CommandError, Run
from athena.agent.host.figures import HostFigures, ProcessFigures, Row, disk_space, with_descendants

_PAGE_SIZE = re.compile(r"page size of (\d+) bytes")
_PAGES = re.compile(r"(?m)^Pages ([a-z ]+):\s+(\d+)\.")
_SPEED_LIMIT = re.compile(r"CPU_Speed_Limit\s*=\s*(\d+)")
_WARNING = re.compile(r"(?i)thermal warning level[^\d\n]{0,20}(\d+)")
_PRESSURE = "com.apple.system.thermalpressurelevel"
_NO_WARNING = "No thermal warning level has been recorded"
_BOOT_TIME = re.compile(r"\bsec = (\d+)")
_UTILIZATION = re.compile(r'"Device Utilization %"\s*=\s*(\d+)')
_RECLAIMABLE = ("free", "inactive", "speculative", "purgeable")
_PS_FIELDS = 5


def parse_vm_stat(text: str) -> tuple[int | None, int | None]:
    """Return what `vm_stat` has of memory that programs can have, and of what is wired, in bytes."""
    size = _PAGE_SIZE.search(text)
    if size is None:
        return None, None
    page = int(size[1])
    pages = {name: int(count) for name, count in _PAGES.findall(text)}
    wired = pages.get("wired down")
    available = sum(pages.get(name, 0) for name in _RECLAIMABLE) * page if "free" in pages else None
    return available, None if wired is None else wired * page


def parse_number(text: str) -> int | None:
    """Return the one number of an answer of `sysctl -n`."""
    return int(text) if text.strip().isdecimal() else None


def parse_wired_limit(text: str) -> int | None:
    """Return the limit of `iogpu.wired_limit_mb` in bytes; None where it is 0, the system's own choice."""
    megabytes = parse_number(text)
    return megabytes * 1024 * 1024 if megabytes else None


def parse_boot_time(text: str, now: float) -> float | None:
    """Return the seconds from the start that `kern.boottime` has to `now`, both since the epoch."""
    found = _BOOT_TIME.search(text)
    return max(0.0, now - int(found[1])) if found else None


def parse_thermal(text: str) -> tuple[int | None, float | None]:
    """Return the warning level of `pmset -g therm` (0: none), and the limit of the processor's speed in per cent."""
    limit = _SPEED_LIMIT.search(text)
    warning = _WARNING.search(text)
    level = int(warning[1]) if warning else 0 if _NO_WARNING in text else None
    return level, float(limit[1]) if limit else None


def parse_pressure(text: str) -> int | None:
    """Return the level that `notifyutil -g` tells after its name.

    0 nominal, 1 moderate, 2 heavy, 3 trapping, 4 sleeping: from 2 on the system slows the chip down.
    """
    name, _, level = text.strip().partition(" ")
    return parse_number(level) if name == _PRESSURE else None


def parse_gpu(text: str) -> float | None:
    """Return the utilization of the busiest GPU that `ioreg` lists, in per cent."""
    return max((float(percent) for percent in _UTILIZATION.findall(text)), default=None)


def parse_ps(text: str) -> list[Row]:
    """Return the processes of `ps -axo pid=,ppid=,rss=,time=,etime=`."""
    rows = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) != _PS_FIELDS:
            continue
        pid, parent, resident, used, age = fields
        try:
            rows.append(Row(int(pid), int(parent), int(resident) * 1024, parse_duration(used), parse_duration(age)))
        except ValueError:
            continue
    return rows


def parse_duration(text: str) -> float:
    """Return the seconds of [[DD-]HH:]MM:SS[.CC]; raises ValueError."""
    days, _, rest = text.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return int(days or 0) * 86400 + seconds


def parse_connections(text: str, port: int) -> int:
    """Return how many connections to a local port `netstat -an -p tcp` has, seen from whoever listens there."""
    rows = (line.split() for line in text.splitlines())
    return sum(row[-1] == "ESTABLISHED" and row[3].endswith(f".{port}") for row in rows if len(row) >= _PS_FIELDS)


class MacHost:
    """Runs the programs of macOS. One that is missing or fails costs its own figures alone."""

    def __init__(self, run: Run, disk: Path) -> None:
        self._run = run
        self._disk = disk

    async def figures(self) -> HostFigures:
        """Return the figures of the host."""
        memory, wired_limit, pages, boot, thermal, pressure = await asyncio.gather(
            self._ask("sysctl", "-n", "hw.memsize"),
            self._ask("sysctl", "-n", "iogpu.wired_limit_mb"),
            self._ask("vm_stat"),
            self._ask("sysctl", "-n", "kern.boottime"),
            self._ask("pmset", "-g", "therm"),
            self._ask("notifyutil", "-g", _PRESSURE),
        )
        disk_total, disk_free = await asyncio.to_thread(disk_space, self._disk)
        available, wired = parse_vm_stat(pages)
        warning, speed_limit = parse_thermal(thermal)
        return HostFigures(
            memory_total=parse_number(memory),
            memory_available=available,
            memory_wired=wired,
            memory_wired_limit=parse_wired_limit(wired_limit),
            disk_total=disk_total,
            disk_free=disk_free,
            uptime=parse_boot_time(boot, time.time()),
            speed_limit=speed_limit,
            thermal_warning=warning,
            thermal_pressure=parse_pressure(pressure),
            gpu_percent=await self.gpu_percent(),
        )

    async def process(self, pid: int) -> ProcessFigures | None:
        """Return the figures of a process with all its descendants."""
        table, line = await asyncio.gather(
            self._ask("ps", "-axo", "pid=,ppid=,rss=,time=,etime="),
            self._ask("ps", "-ww", "-o", "args=", "-p", str(pid)),
        )
        return with_descendants(parse_ps(table), pid, _words(line))

    async def connections(self, port: int) -> int | None:
        """Return how many connections to a local port are open."""
        table = await self._ask("netstat", "-an", "-p", "tcp")
        return parse_connections(table, port) if table else None

    async def gpu_percent(self) -> float | None:
        """Return how much of the GPU is in use, in per cent."""
        return parse_gpu(await self._ask("ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator"))

    async def _ask(self, *arguments: str) -> str:
        try:
            return await self._run(arguments, READ_SECONDS)
        except CommandError:
            return ""


def _words(line: str) -> tuple[str, ...]:
    """Return a command line's arguments as well as `ps` lets them be told apart."""
    try:
        return tuple(shlex.split(line))
    except ValueError:
        return tuple(line.split())
