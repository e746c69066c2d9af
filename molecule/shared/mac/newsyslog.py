#!/usr/bin/env python3
"""newsyslog: rotates logs by size, by renaming them; whoever has one open goes on writing to the renamed file.

The real one runs every half hour. Its way to have a writer open the new file is a signal to the process of a PID file.
"""

import bz2
import grp
import gzip
import os
import pwd
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import mac
from mac import ToolError, say

FLAGS = set("BCDGJNUWZ-")


@dataclass
class Entry:
    """One line of the configuration."""

    path: Path
    user: int
    group: int
    mode: int
    count: int
    kib: int | None
    flags: str
    pid_file: Path | None
    signal: int


def entries(configuration: Path) -> list[Entry]:
    lines = [re.sub(r"(?<!\\)#.*", "", line).strip() for line in configuration.read_text().splitlines()]
    return [parse(line, configuration) for line in lines if line]


def parse(line: str, configuration: Path) -> Entry:
    fields = line.split()
    try:
        path = fields.pop(0)
        owner, group = fields.pop(0).split(":") if ":" in fields[0] else ("", "")
        mode, count, size, when = int(fields[0], 8), int(fields[1]), fields[2], fields[3]
        rest = fields[4:]
    except (IndexError, ValueError):
        raise ToolError(1, f"newsyslog: malformed line (missing fields): {line}") from None
    flags = "" if not rest or rest[0].startswith("/") else rest.pop(0)
    if set(flags.upper()) - FLAGS or not path.startswith("/") or (rest and not rest[0].startswith("/")):
        raise ToolError(1, f"newsyslog: illegal flag or path in {configuration}: {line}")
    if when != "*":
        raise ToolError(1, f"newsyslog: this stands for no more than rotation by size: {line}")
    try:
        user = pwd.getpwnam(owner).pw_uid if owner else 0
        number = grp.getgrnam(group).gr_gid if group else 0
    except KeyError:
        raise ToolError(1, f"newsyslog: error in config file; unknown user or group: {line}") from None
    return Entry(
        path=Path(path),
        user=user,
        group=number,
        mode=mode,
        count=count,
        kib=None if size == "*" else int(size),
        flags=flags.upper(),
        pid_file=Path(rest[0]) if rest else None,
        signal=int(rest[1]) if rest[1:] else signal.SIGHUP,
    )


def rotate(entry: Entry) -> None:
    """Shift the generations, rename the log, make a new one, signal, compress."""
    suffix = ".gz" if "Z" in entry.flags else ".bz2" if "J" in entry.flags else ""

    def generation(number: int) -> Path:
        return entry.path.with_name(f"{entry.path.name}.{number}")

    for number in range(entry.count - 1, -1, -1):
        for end in {"", suffix}:
            old = Path(f"{generation(number)}{end}")
            if old.exists():
                old.unlink() if number == entry.count - 1 else old.replace(f"{generation(number + 1)}{end}")
    entry.path.rename(generation(0)) if entry.count else entry.path.unlink()
    os.close(os.open(entry.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    for path in [entry.path, *([generation(0)] if entry.count else [])]:
        os.chown(path, entry.user, entry.group)
        path.chmod(entry.mode)
    if entry.pid_file is not None and "N" not in entry.flags:
        os.kill(int(entry.pid_file.read_text()), entry.signal)
    if suffix and entry.count:
        compressed = (gzip if suffix == ".gz" else bz2).compress(generation(0).read_bytes())
        target = Path(f"{generation(0)}{suffix}")
        target.write_bytes(compressed)
        os.chown(target, entry.user, entry.group)
        target.chmod(entry.mode)
        generation(0).unlink()


def main(arguments: list[str]) -> None:
    if not mac.is_root():
        raise ToolError(1, "newsyslog: must have root privs")
    words = iter(arguments)
    options: set[str] = set()
    configurations = sorted(Path("/etc/newsyslog.d").glob("*.conf"))
    for word in words:
        if word == "-f":
            configurations = [Path(next(words))]
        else:
            options |= set(word.removeprefix("-"))
    if options - set("Fnv"):
        raise ToolError(1, "usage: newsyslog [-Fnv] [-f config_file]")
    for entry in [entry for configuration in configurations for entry in entries(configuration)]:
        if not entry.path.exists():
            shown = "does not exist, skipped"
        else:
            size = -(-entry.path.stat().st_size // 1024)
            is_due = "F" in options or (entry.kib is not None and size >= entry.kib)
            shown = f"size (Kb): {size} [{entry.kib}] --> {'trimming' if is_due else 'skipping'} log...."
            if is_due and "n" not in options:
                rotate(entry)
        if "v" in options:
            say(f"{entry.path} <{entry.count}{entry.flags}>: {shown}")


if __name__ == "__main__":
    mac.run("newsyslog", main)
