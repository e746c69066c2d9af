"""A plugin of pytest: the deployment that the tests of the whole system share."""

import os
from collections.abc import Iterator

import pytest
from deployment import Deployment
from trials import ROOT, run


@pytest.fixture(scope="session")
def deployment() -> Iterator[Deployment]:
    """The one that the tests of the whole system share, of which nothing is left afterwards.

    Where ATHENA_SHARED_TRIAL names one that is there, it is that one, which stays.
    """
    if there := os.environ.get("ATHENA_SHARED_TRIAL"):
        yield Deployment(there)
        return
    name = f"trial-deploy-{os.getpid()}"
    try:
        run(ROOT / "molecule" / "shared" / "trial-copy", "start", name)
        yield Deployment(name)
    finally:
        run(ROOT / "molecule" / "shared" / "trial-copy", "stop", name)
