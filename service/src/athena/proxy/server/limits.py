"""What callers may cost the server, and the number of files that it may have open."""

import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

_MOST_FILES = 1 << 20  # a hard limit may be "infinite"; macOS refuses that, and nobody needs it
_MACOS_MOST_FILES = 10_240
_DAY = 86_400.0
_MOST_OF_ALL_BODIES: Final = 256 * 1024 * 1024  # where nothing limits the memory
# A body that is passed on is held once. One that is translated is held as it came and as it goes, and its text between
# them, at up to 4 bytes for each of the body's: six times in all. The rest is for the process itself.
_SHARE_OF_MEMORY: Final = 8
_UNLIMITED: Final = 1 << 60  # bytes; cgroup v1 says "none" by a number near 2**63


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one caller may cost: bytes, seconds and connections.

    `all_body_bytes` bounds what the bodies that take more than one read hold together, until they are answered; smaller
    ones are bounded by the number of connections. The time for a head runs from its first byte, the time for a body
    from the end of the head. `idle_seconds` is how long a connection may stay open without a request, `unread_seconds`
    how long an answer may wait without the caller taking any of it. `connections` is None for as many as the limit on
    open files allows; when all are taken, one that has been idle for `way_after_seconds` gives way to a new one.
    """

    head_bytes: int = 64 * 1024
    headers: int = 100
    head_seconds: float = 15.0
    body_bytes: int = 32 * 1024 * 1024
    all_body_bytes: int = _MOST_OF_ALL_BODIES
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    unread_seconds: float = 20.0
    connections: int | None = None
    way_after_seconds: float = 1.0

    @property
    def look_seconds(self) -> float:
        """How often to look for what is overdue: rarely, but often enough for the shortest of the limits."""
        shortest = min(self.head_seconds, self.body_seconds, self.idle_seconds, self.unread_seconds, _DAY)
        return min(0.5, max(0.02, shortest / 8))


def room_for_bodies(workers: int, memory: int | None) -> int:
    """Return what the large bodies of each of some workers may hold together, in bytes; always enough for one of them.

    `memory` is what all workers may take together; None where nothing limits that.
    """
    of_all = memory // _SHARE_OF_MEMORY if memory is not None else _MOST_OF_ALL_BODIES
    return max(of_all // workers, Limits().body_bytes)


def memory_limit(membership: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return how many bytes of memory this process's control group may take, with those around it; None for no limit.

    Of cgroup v2 it is the least `memory.max`, of v1 the least `memory.limit_in_bytes`. Within a container the paths
    of the host lead nowhere, and what is mounted is the container's own group.
    """
    limits: list[int] = []
    with suppress(OSError):  # there are none on macOS
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                root, name = mounted, "memory.max"
            elif "memory" in controllers.split(","):
                root, name = mounted / "memory", "memory.limit_in_bytes"
            else:
                continue
            group = Path(path.lstrip("/"))
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):  # it is not there, or "max"
                    limits.append(int((root / folder / name).read_text()))
    least = min(limits, default=_UNLIMITED)
    return least if least < _UNLIMITED else None


def raise_file_limit() -> int:
    """Raise the soft limit on open files as far as the system lets this process; returns what holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    for limit in (wanted, _MACOS_MOST_FILES):
        if soft != resource.RLIM_INFINITY and soft >= limit:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError):
            continue
        break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connections_for(open_files: int) -> int:
    """Return how many callers may be connected: a quarter of the files is left for engines, logs and the registry."""
    if open_files == resource.RLIM_INFINITY:
        open_files = _MOST_FILES
    return max(16, open_files * 3 // 4)
