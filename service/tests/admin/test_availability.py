import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from athena.db import migrate
from tests.support.admin import AdminApi, running_admin_api
from tests.support.postgres import PostgresServer

FIRST = "93bea4659785"


def eventually(true: Callable[[], bool], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def healthy(api: AdminApi) -> bool:
    return httpx.get(f"{api.base_url}/health").status_code == 200


def test_a_healthy_process_names_its_parts(admin_api: AdminApi) -> None:
    answer = httpx.get(f"{admin_api.base_url}/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "healthy",
        "components": {"database": "healthy", "schema": "healthy"},
        "schema_revision": migrate.head(),
    }


def test_while_the_database_is_away_the_process_lives_and_says_so_and_then_recovers(
    own_database_server: PostgresServer,
) -> None:
    server = own_database_server
    migrate.upgrade(server.url())
    with running_admin_api(server.url()) as api, ThreadPoolExecutor() as pool:
        row = api.add("m")
        server.kill()
        assert httpx.get(f"{api.base_url}/livez").status_code == 200
        answer = httpx.get(f"{api.base_url}/health")
        assert answer.status_code == 503
        assert answer.json() == {
            "status": "unhealthy",
            "components": {"database": "unreachable", "schema": "unknown"},
            "schema_revision": None,
        }
        for path in ("/api/llm-backends", "/api/llm-backends/model/m", "/api/llm-backends/changes?after=0"):
            refused = api.client.get(path)
            assert refused.status_code == 503, path
            assert refused.headers["retry-after"] == "2"
            assert refused.headers["content-type"] == "application/problem+json"
            assert "127.0.0.1" not in refused.text
        server.start()
        eventually(lambda: healthy(api))
        assert api.client.get("/api/llm-backends").json() == [row]
        # News comes again as well.
        waiting = pool.submit(httpx.get, f"{api.base_url}/api/llm-backends/changes?after=1&wait=10", timeout=20)
        time.sleep(1.5)
        began = time.monotonic()
        api.add("n")
        assert waiting.result().json()["version"] > 1
        assert time.monotonic() - began < 5


def test_the_process_starts_without_its_database_and_serves_when_that_is_there(
    own_database_server: PostgresServer,
) -> None:
    server = own_database_server
    migrate.upgrade(server.url())
    server.stop()
    with running_admin_api(server.url()) as api:
        assert not healthy(api)
        assert httpx.get(f"{api.base_url}/livez").status_code == 200
        server.start()
        eventually(lambda: healthy(api))
        api.add("m")


def test_an_empty_database_is_not_ready_and_the_answer_says_what_to_do(empty_database_url: str) -> None:
    with running_admin_api(empty_database_url) as api:
        answer = httpx.get(f"{api.base_url}/health")
        assert answer.status_code == 503
        assert answer.json()["components"]["database"] == "healthy"
        assert answer.json()["components"]["schema"].startswith("empty: this code needs")
        refused = api.client.get("/api/llm-backends")
        assert refused.status_code == 503
        assert "run `athena migrate`" in refused.json()["detail"]
        migrate.upgrade(empty_database_url)
        assert healthy(api)
        api.add("m")


def test_a_schema_that_is_behind_is_not_ready(database_url: str) -> None:
    migrate.downgrade(database_url, FIRST)
    with running_admin_api(database_url) as api:
        answer = httpx.get(f"{api.base_url}/health")
        assert answer.status_code == 503
        assert answer.json()["components"]["schema"] == (
            f"behind: at {FIRST}, this code needs {migrate.head()}; run `athena migrate`"
        )


def test_a_newer_schema_keeps_the_processes_of_before_in_service(own_admin_api: AdminApi) -> None:
    with psycopg.connect(own_admin_api.database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    answer = httpx.get(f"{own_admin_api.base_url}/health")
    assert answer.status_code == 200
    assert answer.json()["components"]["schema"].startswith("ahead: at ffffffffffff")
    assert answer.json()["schema_revision"] == "ffffffffffff"


@pytest.mark.slow
def test_a_database_that_hangs_is_an_error_and_no_hang(own_database_server: PostgresServer) -> None:
    server = own_database_server
    migrate.upgrade(server.url())
    with running_admin_api(server.url()) as api, psycopg.connect(server.url()) as holder:
        api.add("m")
        holder.execute("LOCK TABLE llm_backends IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        assert api.client.get("/api/llm-backends").status_code == 503
        assert time.monotonic() - began < 15
        assert httpx.get(f"{api.base_url}/livez").status_code == 200


@pytest.mark.slow
def test_a_database_that_is_frozen_is_told_within_seconds_and_used_again_when_it_moves(
    own_database_server: PostgresServer,
) -> None:
    server = own_database_server
    migrate.upgrade(server.url())
    with running_admin_api(server.url()) as api:
        row = api.add("m")
        assert healthy(api)
        with server.frozen():
            for _ in range(5):  # with a connection that was in use before, and without one
                answer = httpx.get(f"{api.base_url}/health", timeout=8)
                assert answer.json()["components"]["database"] == "unreachable"
            assert api.client.get("/api/llm-backends").status_code == 503
            assert httpx.get(f"{api.base_url}/livez").status_code == 200
        eventually(lambda: healthy(api), within=20)
        assert api.client.get("/api/llm-backends").json() == [row]


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_page_fetches_scripts_from_elsewhere(admin_api: AdminApi, path: str) -> None:
    assert httpx.get(admin_api.base_url + path).status_code == 404
