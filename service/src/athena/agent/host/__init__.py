"""Figures of a host and of its processes, read without root; each parser is a pure function."""

import sys
from pathlib import Path

from athena.agent.commands import Run
from athena.agent.host.figures import Host


def this_host(run: Run, disk: Path) -> Host:
    """Return what reads the figures of the system that this process runs on; `disk` is a folder of a file system."""
    if sys.platform == "darwin":
        from athena.agent.host.macos import MacHost  # noqa: PLC0415

        return MacHost(run, disk)
    from athena.agent.host.linux import LinuxHost  # noqa: PLC0415

    return LinuxHost(disk)
