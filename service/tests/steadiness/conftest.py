"""Worlds for the tests of what must hold."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.steadiness.world import World, world


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[World]:
    """An empty world of the test's own."""
    with world(tmp_path) as own:
        yield own
