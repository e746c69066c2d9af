"""Figures of a host and of its processes, read without root; each parser is a pure function."""

import sys
from pathlib import Path

from athena.agent.commands import Run
from athena.agent.host.figures import Host
from athena.agent.host.linux import LinuxHost
from athena.agent.host.macos import MacHost


def this_host(run: Run, disk: Path) -> Host:
    """Return what reads the figures of the system that this process runs on; `disk` is a folder of a file system."""
    return MacHost(run, disk) if sys.platform == "darwin" else LinuxHost(disk)
