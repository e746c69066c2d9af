"""A dry run on a fresh controller leaves nothing."""

import os
from pathlib import Path

from testinfra.host import Host


def test_nothing_was_made(host: Host) -> None:
    state = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "controller" / "state"
    assert not host.file(str(state)).exists
