"""What agents report of their hosts."""

import json
from typing import Any

import httpx
import psycopg
import pytest

from athena.auth.tokens import agents_token, issue
from tests.support.admin import JWT_SECRET, AdminApi

AT = "2026-01-05T10:00:00Z"
ENGINE = {
    "name": "llama",
    "kind": "mlx",
    "url": "http://127.0.0.1:8081",
    "model": "m",
    "state": "healthy",
    "since": AT,
    "last_probe": {"at": AT, "seconds": 0.2, "outcome": "token"},
}


def report(**fields: Any) -> dict[str, Any]:
    return {"at": AT, "version": "1", "figures": {"memory_total_bytes": 64 * 10**9}, "engines": [ENGINE], **fields}


def put(api: AdminApi, name: str = "mac-1", **fields: Any) -> httpx.Response:
    return api.client.put(f"/api/hosts/{name}", json=report(**fields))


def test_the_last_report_of_each_host_is_kept_and_shown(admin_api: AdminApi) -> None:
    assert admin_api.client.get("/api/hosts").json() == []
    assert put(admin_api, "mac-2").status_code == 204
    assert put(admin_api).status_code == 204
    assert put(admin_api, engines=[{**ENGINE, "state": "hung"}]).status_code == 204
    hosts = admin_api.client.get("/api/hosts").json()
    assert [host["name"] for host in hosts] == ["mac-1", "mac-2"]
    assert hosts[0]["received_at"].endswith("Z")
    assert hosts[0]["report"]["engines"][0]["state"] == "hung"
    assert hosts[0]["report"]["figures"]["memory_total_bytes"] == 64 * 10**9
    assert hosts[0]["report"]["figures"]["gpu_percent"] is None


def test_a_host_is_forgotten_until_it_reports_again(admin_api: AdminApi) -> None:
    put(admin_api)
    assert admin_api.client.delete("/api/hosts/mac-1").status_code == 204
    gone = admin_api.client.delete("/api/hosts/mac-1")
    assert (gone.status_code, gone.json()["detail"]) == (404, "no host mac-1 has reported")
    put(admin_api)
    assert len(admin_api.client.get("/api/hosts").json()) == 1


def test_reports_are_no_configuration(admin_api: AdminApi) -> None:
    put(admin_api)
    assert admin_api.client.get("/api/audit-log").json() == []


def test_an_agent_needs_a_token_and_may_not_forget_hosts_with_one_of_a_service(admin_api: AdminApi) -> None:
    url = f"{admin_api.base_url}/api/hosts"
    for method, path in (("GET", ""), ("PUT", "/mac-1"), ("DELETE", "/mac-1")):
        assert httpx.request(method, url + path, json=report()).status_code == 401
    with psycopg.connect(admin_api.database_url) as connection:
        connection.execute("INSERT INTO admin_users (name, scope) VALUES ('agent', 'service')")
    headers = {"Authorization": f"Bearer {issue(JWT_SECRET, user='agent', scope='service')}"}
    assert httpx.put(f"{url}/mac-1", json=report(), headers=headers).status_code == 204
    assert len(httpx.get(url, headers=headers).json()) == 1
    assert httpx.delete(f"{url}/mac-1", headers=headers).status_code == 403


def test_the_agents_token_reports_and_cannot_change_the_registry(admin_api: AdminApi) -> None:
    row = admin_api.add("phi3:mini")
    headers = {"Authorization": f"Bearer {agents_token(admin_api.token)}"}
    with httpx.Client(base_url=admin_api.base_url, headers=headers, timeout=30) as agent:
        assert agent.put("/api/hosts/mac-1", json=report()).status_code == 204
        for method, path in (
            ("POST", "/api/llm-backends"),
            ("PUT", f"/api/llm-backends/{row['id']}"),
            ("DELETE", f"/api/llm-backends/{row['id']}"),
            ("POST", f"/api/llm-backends/{row['id']}/toggle"),
            ("POST", "/api/api-keys"),
            ("DELETE", "/api/hosts/mac-1"),
            ("GET", "/api/audit-log"),
        ):
            assert agent.request(method, path, json={}).status_code == 403, path
    assert admin_api.client.get("/api/llm-backends").json() == [row]
    other = {"Authorization": f"Bearer {agents_token('another-token-of-another-place')}"}
    assert httpx.put(f"{admin_api.base_url}/api/hosts/mac-1", json=report(), headers=other).status_code == 401


def test_what_another_release_of_the_agent_tells_is_ignored(admin_api: AdminApi) -> None:
    assert put(admin_api, new_in_this_release={"a": 1}).status_code == 204
    assert "new_in_this_release" not in admin_api.client.get("/api/hosts").json()[0]["report"]


def test_words_of_other_programs_are_kept_as_one_line_that_a_database_can_hold(admin_api: AdminApi) -> None:
    probe = {"at": AT, "seconds": 1, "outcome": "failed", "detail": "a\x00b\nc\ud800" + "x" * 1000}
    body = json.dumps(report(engines=[{**ENGINE, "last_probe": probe}]))  # writes the half character as an escape
    headers = {"Content-Type": "application/json"}
    assert admin_api.client.put("/api/hosts/mac-1", content=body, headers=headers).status_code == 204
    detail = admin_api.client.get("/api/hosts").json()[0]["report"]["engines"][0]["last_probe"]["detail"]
    assert detail.startswith("a b c x")
    assert len(detail) == 500


@pytest.mark.parametrize(
    ("name", "fields", "field"),
    [
        ("a b", {}, "name"),
        ("mac-1", {"at": "yesterday"}, "at"),
        ("mac-1", {"at": "2026-01-05T10:00:00"}, "at"),
        ("mac-1", {"figures": {"disk_free_bytes": -1}}, "figures.disk_free_bytes"),
        ("mac-1", {"figures": {"disk_free_bytes": 10**15 + 1}}, "figures.disk_free_bytes"),
        ("mac-1", {"engines": [{"name": "a"}]}, "engines.0.kind"),
    ],
)
def test_a_report_that_does_not_hold_is_refused_with_the_field_at_fault(
    admin_api: AdminApi, name: str, fields: dict[str, Any], field: str
) -> None:
    answer = put(admin_api, name, **fields)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
