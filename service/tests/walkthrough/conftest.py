from collections.abc import Iterator

import httpx
import pytest

from tests.engines.server import EngineServer
from tests.support.postgres import PostgresServer
from tests.support.processes import athena, serving
from tests.walkthrough.installation import CODE, LARGE, SMALL, Installation

TOKEN = "walkthrough-token-0123456789"


@pytest.fixture(scope="module")
def installed(
    database_server: PostgresServer,
    ollama_server: EngineServer,
    mlx_server: EngineServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """A migrated database, the Admin API as `athena serve admin`, and engines whose models have the manual's names."""
    for name in (SMALL, LARGE, CODE):
        copied = httpx.post(
            f"{ollama_server.url}/api/copy", json={"source": ollama_server.model, "destination": name}, timeout=30
        )
        assert copied.status_code == 200, copied.text
    url = database_server.url(database_server.create_database())
    migrated = athena("migrate", DATABASE_URL=url)
    assert migrated.returncode == 0, migrated.stderr
    log = tmp_path_factory.mktemp("admin") / "log"
    with serving("admin", log, DATABASE_URL=url, ADMIN_API_TOKEN=TOKEN) as admin:
        installation = Installation(admin, TOKEN, ollama_server, mlx_server)
        yield installation
        installation.close()
    for name in (SMALL, LARGE, CODE):  # the server is of all tests
        removed = httpx.request("DELETE", f"{ollama_server.url}/api/delete", json={"model": name}, timeout=30)
        assert removed.status_code == 200, removed.text


@pytest.fixture
def installation(installed: Installation) -> Iterator[Installation]:
    """The installation with an empty registry and both engines up."""
    installed.clear()
    yield installed
    if installed.mlx.pid is None:
        installed.mlx.start()
    if installed.ollama.pid is None:
        installed.ollama.start()
