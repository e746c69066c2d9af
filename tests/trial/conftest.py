"""The trials of the tests: one that is left as it was started, and one that is deployed to."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment
from trials import ROOT, Trial, left_of, trial


@pytest.fixture(scope="module")
def started() -> Iterator[Trial]:
    """A trial of this checkout, of which nothing is left afterwards."""
    name = f"trial-test-{os.getpid()}"
    try:
        yield Trial(name)
    finally:
        trial("stop", name)
    assert left_of(name) == []


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    """A trial of a copy of this checkout, with commits of its own, to which it is deployed."""
    name = f"trial-deploy-{os.getpid()}"
    folder = Path(tempfile.mkdtemp(prefix="athena-trial-", dir="/tmp")).resolve()
    clone = folder / "clone"
    subprocess.run([ROOT / "molecule" / "shared" / "working-copy", clone], check=True)
    try:
        yield Deployment(Trial(name, clone))
    finally:
        subprocess.run([clone / "molecule" / "shared" / "trial", "stop", name], check=True)
        shutil.rmtree(folder)
