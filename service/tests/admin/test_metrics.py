"""The metrics of the Admin API."""

import asyncio
import time
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event

from athena.admin.metrics import HOLD_SECONDS, AdminMetrics
from athena.db import migrate
from athena.db.session import Database
from tests.support.admin import AdminApi, running_admin_api
from tests.support.postgres import PostgresServer

REPORT: dict[str, Any] = {"at": "2026-01-05T10:00:00Z", "version": "1", "figures": {}, "engines": []}
Found = dict[tuple[str, ...], float]


def read(api: AdminApi) -> dict[str, Found]:
    """Return the values by sample name and label values, those in the order of the labels' names."""
    time.sleep(HOLD_SECONDS)  # what the database said before is told no longer
    answer = httpx.get(f"{api.base_url}/metrics")  # without a token
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found: dict[str, Found] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            key = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[key] = sample.value
    return found


def test_they_tell_of_the_registry_the_hosts_and_the_schema(admin_api: AdminApi) -> None:
    found = read(admin_api)
    assert found["athena_backends"] == {("true",): 0, ("false",): 0}
    assert "athena_host_report_age_seconds" not in found
    admin_api.add("llama")
    admin_api.add("phi3", enabled=False)
    admin_api.client.put("/api/hosts/mac-1", json=REPORT).raise_for_status()
    found = read(admin_api)
    assert found["athena_backends"] == {("true",): 1, ("false",): 1}
    assert found["athena_host_report_age_seconds"].keys() == {("mac-1",)}
    assert HOLD_SECONDS / 2 < found["athena_host_report_age_seconds"]["mac-1",] < 60
    assert found["athena_schema_revision_info"] == {(migrate.head(),): 1}
    assert found["athena_database_reachable"] == {(): 1}
    assert found["athena_database_connections_limit"] == {(): 15}
    assert sum(found["athena_database_connections"].values()) >= 1
    assert [service for service, _ in found["athena_build_info"]] == ["admin"]


def test_requests_are_counted_by_the_route_and_never_by_the_path(own_admin_api: AdminApi) -> None:
    api = own_admin_api
    number = api.add("llama")["id"]
    api.client.get(f"/api/llm-backends/{number}").raise_for_status()
    for odd in range(50):
        api.client.get(f"/api/llm-backends/{odd + 1000}")
        api.client.get(f"/api/llm-backends/model/some/model:{odd}")
        api.client.get(f"/wp-admin/{odd}.php")
        httpx.get(f"{api.base_url}/api/hosts", headers={"authorization": f"Bearer {odd}"})
    for method in ("PROPFIND", "MKCOL", "LOCK", "REPORT"):
        api.client.request(method, "/health")
    api.client.post("/livez")
    counts = read(api)["http_server_request_duration_seconds_count"]
    assert counts == {
        ("POST", "201", "/api/llm-backends"): 1,
        ("GET", "200", "/api/llm-backends/{backend_id:int}"): 1,
        ("GET", "404", "/api/llm-backends/{backend_id:int}"): 50,
        ("GET", "404", "/api/llm-backends/model/{model_name:path}"): 50,
        ("GET", "404", ""): 50,
        ("_OTHER", "405", "/health"): 4,
        ("GET", "401", "/api/hosts"): 50,
        ("POST", "405", "/livez"): 1,
    }


async def test_the_database_is_asked_once_however_many_read_them(database_url: str) -> None:
    database = Database(database_url)
    asked: list[str] = []

    @event.listens_for(database.engine.sync_engine, "before_cursor_execute")
    def note(_: object, __: object, statement: str, *___: object) -> None:
        asked.append(statement)

    metrics = AdminMetrics(database)
    answers = await asyncio.gather(*(metrics.read() for _ in range(30)))
    await database.close()
    assert all(b'athena_backends{enabled="true"} 0.0' in answer for answer in answers)
    assert 1 <= sum("llm_backends" in statement for statement in asked) < 5


def test_without_the_database_they_tell_what_the_process_knows(own_database_server: PostgresServer) -> None:
    name = own_database_server.create_database()
    url = own_database_server.url(name)
    with running_admin_api(url) as api:
        assert "athena_backends" not in read(api)  # it has no tables yet
        migrate.upgrade(url)
        assert read(api)["athena_backends"] == {("true",): 0, ("false",): 0}
        own_database_server.kill()
        found = read(api)
        assert found["athena_database_reachable"] == {(): 0}
        assert "athena_backends" not in found
        assert "athena_schema_revision_info" not in found
        assert found["http_server_request_duration_seconds_count"]["GET", "200", "/metrics"] == 2
        own_database_server.start()
        assert read(api)["athena_database_reachable"] == {(): 1}
