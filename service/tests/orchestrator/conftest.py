from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.orchestrator.redis_server import RedisServer


@pytest.fixture(scope="module")
def redis_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may stop."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()
