"""The environment that the tests of deploy.sh share."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from scratch import Environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder for everything, with a path short enough for sockets; PostgreSQL may have to go in as another user."""
    folder = Path(tempfile.mkdtemp(prefix="athena-deploy-", dir="/tmp")).resolve()
    folder.chmod(0o755)
    subprocess.run([ROOT / "molecule" / "shared" / "working-copy", folder / "clone"], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def environment(folder: Path) -> Iterator[Environment]:
    """The environment that comes to be, lives and ends; whatever a failed test leaves of it is destroyed in the end."""
    environment = Environment(folder / "one", folder / "clone")
    yield environment
    if environment.state.exists():
        environment.run("unlock")
        left = environment.run("destroy", "--yes", "--data")
        assert left.code == 0, left.output


@pytest.fixture
def other(folder: Path) -> Environment:
    """A second environment of the same clone, which does not exist."""
    return Environment(folder / "two", folder / "clone")
