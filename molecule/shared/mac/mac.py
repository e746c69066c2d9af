"""What the stand-ins for macOS' tools share: where they keep their state, the journal of calls, how a call ends.

Each tool is a program of this folder, linked to its real name on PATH. `MAC_STATE` names the folder of the state; its
`settings.json` says what kind of Mac this is, for tests to change.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATE = Path(os.environ.get("MAC_STATE", "/var/db/mac"))
SOCKET = STATE / "launchd.sock"
JOURNAL = STATE / "journal"
# A Mac Studio. `root` owns what root owns on a Mac: a test that is not root has itself there.
SETTINGS: dict[str, Any] = {
    "root": 0,
    "logins": [],  # the users with a desktop, by number
    "daemons": "/Library/LaunchDaemons",
    "linger": 0,  # so many seconds a job that `print` finds no more still cannot be loaded again
    "refused": "",  # a word: a plist that has it cannot be loaded, for reasons that launchd does not tell
    "version": "15.6",
    "build": "24G84",
    "sysctl": {
        "hw.memsize": "103079215104",
        "hw.ncpu": "24",
        "hw.model": "Mac14,14",
        "hw.optional.arm64": "1",
        "kern.osproductversion": "15.6",
        "machdep.cpu.brand_string": "Apple M2 Ultra",
        "iogpu.wired_limit_mb": "0",
        "iogpu.wired_lwm_mb": "0",
    },
    "formulae": {},  # what can be installed: name → {version, revision, service: its plist's keys}
}


class ToolError(Exception):
    """A call that ends with a code other than 0, and what it says."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def settings() -> dict[str, Any]:
    """Return what kind of Mac this is."""
    return {**SETTINGS, **read("settings", {})}


def read(name: str, default: Any) -> Any:
    """Return what was kept under a name."""
    try:
        return json.loads((STATE / f"{name}.json").read_text())
    except FileNotFoundError:
        return default


def keep(name: str, value: Any) -> None:
    """Keep a value under a name."""
    part = STATE / f"{name}.{os.getpid()}.part"
    part.write_text(json.dumps(value))
    part.replace(STATE / f"{name}.json")


def is_root() -> bool:
    """Return whether the caller is root."""
    return bool(os.geteuid() == settings()["root"])


def say(*lines: str) -> None:
    """Print lines."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def note(tool: str, arguments: list[str], code: int) -> None:
    """Write a call into the journal, as whatever user; one write, so that calls at the same time do not mix."""
    entry = {"time": round(time.time(), 3), "tool": tool, "arguments": arguments, "code": code}
    mask = os.umask(0)
    file = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.umask(mask)
    os.write(file, (json.dumps(entry) + "\n").encode())
    os.close(file)


def run(tool: str, main: Callable[[list[str]], None]) -> None:
    """Run a tool with the arguments of the command line, and end with its code."""
    arguments, code = sys.argv[1:], 0
    try:
        main(arguments)
    except ToolError as error:
        code = error.code
        sys.stderr.write(f"{error}\n")
    note(tool, arguments, code)
    sys.exit(code)
