"""Bring the supervisor back when it dies without ending its programs, as after `kill -9`.

usage: supervisor_guard.py SUPERVISORD CONFIGURATION

Runs as one of the supervisor's own programs, which restarts it in turn: whichever of the two dies, the other sees to
it. When the supervisor is gone its programs go on without anybody, and hold the ports that a new supervisor's programs
need. So they are ended first: all processes of the dead supervisor's session, which is its own because it is a daemon.
Then the supervisor is started anew, and starts everything, this program included.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL

LOOK_SECONDS = 0.2
GRACE_SECONDS = 0.7


def processes() -> list[int]:
    """Return all processes; a bare Debian has /proc but no ps, macOS has ps but no /proc."""
    if Path("/proc/self").exists():
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    listing = subprocess.run(["/bin/ps", "-A", "-o", "pid="], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid in listing.split()]


def session_members(session: int) -> list[int]:
    """Return the processes of a session, without this one."""
    members = []
    for pid in processes():
        try:
            if pid != os.getpid() and os.getsid(pid) == session:
                members.append(pid)
        except (ProcessLookupError, PermissionError):
            continue  # ended since it was listed, or is not ours
    return [pid for pid in members if not is_zombie(pid)]


def is_zombie(pid: int) -> bool:
    """Return whether a process is dead and only waits to be collected, which not every init does."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def exists(pid: int) -> bool:
    """Return whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to those of the processes that are still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def end_orphans(session: int) -> None:
    """End the processes of a session: SIGINT, at which PostgreSQL too ends at once and cleanly, then SIGKILL."""
    send(session_members(session), signal.SIGINT)
    deadline = time.monotonic() + GRACE_SECONDS
    while orphans := session_members(session):
        if time.monotonic() > deadline:
            send(orphans, signal.SIGKILL)
        time.sleep(0.05)


def main(supervisord: str, configuration: str) -> None:
    """Wait for the supervisor's death, clean up, and start it again."""
    supervisor, session = os.getppid(), os.getsid(0)
    if supervisor != session and exists(session):
        sys.exit(
            "the supervisor must run as a daemon: this session is not its own, and its processes are not ours to end"
        )
    while os.getppid() == session:
        time.sleep(LOOK_SECONDS)
    end_orphans(session)
    start = [sys.executable, supervisord, "-c", configuration]
    # Our own standard output was read by the supervisor that is dead: who writes to it, dies as well.
    while subprocess.run(start, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, check=False).returncode != 0:
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
