"""The environment that the tests of deploy.sh share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from scratch import Environment


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    """A scratch environment; whatever a failed test leaves of it is destroyed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="athena-deploy-", dir="/tmp")).resolve()
    folder.chmod(0o755)  # PostgreSQL has a user of its own where we are root
    environment = Environment(folder)
    yield environment
    if environment.state.exists():
        environment.run("unlock")
        left = environment.run("destroy", "--yes")
        assert left.code == 0, left.output
    shutil.rmtree(folder)
