"""API keys in the Admin API: made, shown once, listed, revoked."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import httpx
import psycopg
import pytest

from athena.auth.tokens import issue
from tests.support.admin import JWT_SECRET, AdminApi

PATH = "/api/api-keys"


def make(api: AdminApi, name: str = "alice", **fields: Any) -> dict[str, Any]:
    answer = api.client.post(PATH, json={"name": name, **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def service_headers(api: AdminApi) -> dict[str, str]:
    with psycopg.connect(api.database_url) as connection:
        connection.execute("INSERT INTO admin_users (name, scope) VALUES ('proxy', 'service')")
    return {"Authorization": f"Bearer {issue(JWT_SECRET, user='proxy', scope='service')}"}


def test_a_key_is_shown_once_and_only_its_digest_is_kept(admin_api: AdminApi) -> None:
    answer = admin_api.client.post(PATH, json={"name": "alice"})
    made = answer.json()
    key = made.pop("key")
    assert (answer.status_code, answer.headers["location"]) == (201, f"{PATH}/{made['id']}")
    assert answer.headers["cache-control"] == "no-store"
    assert key.startswith(made["prefix"])
    assert len(key) > len(made["prefix"]) + 30
    assert admin_api.client.get(f"{PATH}/{made['id']}").json() == made
    assert admin_api.client.get(PATH).json() == [made]
    assert made["scopes"] == ["prompts", "embeddings", "models"]
    unlimited = ("models", "requests_per_minute", "tokens_per_minute", "expires_at", "revoked_at", "last_used_at")
    assert {made[name] for name in unlimited} == {None}
    with psycopg.connect(admin_api.database_url) as connection:
        row = connection.execute("SELECT to_jsonb(api_keys) FROM api_keys").fetchone()
        audit = connection.execute("SELECT after FROM config_audit_log").fetchone()
    assert row is not None
    assert audit is not None
    assert row[0]["digest"] == sha256(key.encode()).hexdigest()
    secret = key.removeprefix(made["prefix"])
    assert secret not in str(row) + str(audit)
    assert "digest" not in audit[0]


def test_what_a_key_may_do_is_kept_in_order_and_once(admin_api: AdminApi) -> None:
    made = make(
        admin_api,
        scopes=["models", "prompts", "models"],
        models=["phi3:mini", "org/name:8b", "phi3:mini"],
        requests_per_minute=60.0,
        tokens_per_minute=10_000,
        expires_in_days=7,
    )
    assert made["scopes"] == ["prompts", "models"]
    assert made["models"] == ["org/name:8b", "phi3:mini"]
    assert (made["requests_per_minute"], made["tokens_per_minute"]) == (60, 10_000)
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)


def test_a_proxy_is_told_the_digests_of_the_keys_that_hold_and_nobody_else_is(admin_api: AdminApi) -> None:
    kept, revoked, expired = make(admin_api), make(admin_api, "bob"), make(admin_api, "carol", expires_in_days=1)
    admin_api.client.post(f"{PATH}/{revoked['id']}/revoke")
    with psycopg.connect(admin_api.database_url) as connection:
        connection.execute("UPDATE api_keys SET expires_at = now() WHERE id = %s", [expired["id"]])
    headers = service_headers(admin_api)
    told = httpx.get(f"{admin_api.base_url}{PATH}/digests", headers=headers)
    assert told.headers["x-registry-version"] == "4"
    assert [row["id"] for row in told.json()] == [kept["id"]]
    assert told.json()[0]["digest"] == sha256(kept["key"].encode()).hexdigest()
    assert "digest" not in admin_api.client.get(PATH).text
    assert [row["id"] for row in admin_api.client.get(f"{PATH}?valid_only=true").json()] == [kept["id"]]
    assert len(admin_api.client.get(PATH).json()) == 3


def test_a_token_of_a_service_neither_makes_nor_lists_nor_revokes_keys(admin_api: AdminApi) -> None:
    made = make(admin_api)
    headers = service_headers(admin_api)
    url = admin_api.base_url + PATH
    for method, path in (
        ("GET", ""),
        ("POST", ""),
        ("GET", f"/{made['id']}"),
        ("PUT", f"/{made['id']}"),
        ("POST", f"/{made['id']}/revoke"),
    ):
        assert httpx.request(method, url + path, json={"name": "mallory"}).status_code == 401
        assert httpx.request(method, url + path, json={"name": "mallory"}, headers=headers).status_code == 403
    for method, path in (("GET", "/digests"), ("POST", "/used")):
        assert httpx.request(method, url + path, json={"ids": []}).status_code == 401
    assert len(admin_api.client.get(PATH).json()) == 1


def test_a_revoked_key_stays_revoked_and_the_log_says_who_did_it_once(admin_api: AdminApi) -> None:
    made = make(admin_api)
    revoked = admin_api.client.post(f"{PATH}/{made['id']}/revoke").json()
    assert revoked["revoked_at"] is not None
    assert admin_api.client.post(f"{PATH}/{made['id']}/revoke").json() == revoked
    entries = admin_api.client.get("/api/audit-log").json()
    assert [(entry["action"], entry["entity"], entry["entity_id"]) for entry in entries] == [
        ("revoke", "api_key", made["id"]),
        ("create", "api_key", made["id"]),
    ]
    assert entries[0]["before"]["revoked_at"] is None
    assert entries[0]["after"]["revoked_at"] is not None
    assert entries[0]["actor"] == "api-token"


def test_what_a_key_is_bound_to_is_changed_as_far_as_it_is_given(admin_api: AdminApi) -> None:
    made = make(admin_api, requests_per_minute=60, tokens_per_minute=1000, models=["m"])
    del made["key"]
    path = f"{PATH}/{made['id']}"
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (
            {"requests_per_minute": None, "tokens_per_minute": 5.0},
            {"requests_per_minute": None, "tokens_per_minute": 5},
        ),
        ({"scopes": ["admin", "prompts", "admin"]}, {"scopes": ["prompts", "admin"]}),
        ({"models": ["phi3:mini", "m", "m"]}, {"models": ["m", "phi3:mini"]}),
        ({"models": None}, {"models": None}),
    ]
    for change, after in changes:
        made |= after
        answer = admin_api.client.put(path, json=change)
        assert (answer.status_code, answer.json()) == (200, made)
    assert admin_api.client.get(path).json() == made
    entries = admin_api.client.get("/api/audit-log").json()
    assert [entry["action"] for entry in entries] == ["update"] * 4 + ["create"]
    assert entries[3]["before"]["requests_per_minute"] == 60
    assert entries[3]["after"]["requests_per_minute"] is None
    assert entries[0]["actor"] == "api-token"


def test_a_change_that_changes_nothing_is_none(admin_api: AdminApi) -> None:
    made = make(admin_api, requests_per_minute=60)
    for change in ({}, {"requests_per_minute": 60}, {"scopes": ["models", "embeddings", "prompts"]}):
        assert admin_api.client.put(f"{PATH}/{made['id']}", json=change).status_code == 200
    assert len(admin_api.client.get("/api/audit-log").json()) == 1


def test_a_revoked_key_is_not_changed_any_more(admin_api: AdminApi) -> None:
    made = make(admin_api)
    admin_api.client.post(f"{PATH}/{made['id']}/revoke")
    refused = admin_api.client.put(f"{PATH}/{made['id']}", json={"requests_per_minute": 1})
    assert refused.status_code == 409
    assert "was revoked, for good" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": None}, "scopes"),
        ({"models": []}, "models"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"tokens_per_minute": "5"}, "tokens_per_minute"),
        ({"name": "bob"}, "name"),
        ({"expires_in_days": 3}, "expires_in_days"),
        ({"key": "sk-athena-mine"}, "key"),
    ],
)
def test_what_a_key_cannot_be_bound_to_is_refused_by_its_field(
    admin_api: AdminApi, change: dict[str, Any], field: str
) -> None:
    made = make(admin_api)
    answer = admin_api.client.put(f"{PATH}/{made['id']}", json={"requests_per_minute": 7, **change})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert admin_api.client.get(f"{PATH}/{made['id']}").json()["requests_per_minute"] is None


def test_a_change_of_the_keys_is_news_for_those_who_wait_for_the_registry(admin_api: AdminApi) -> None:
    def version() -> int:
        return int(admin_api.client.get("/api/llm-backends/changes?after=0&wait=0").json()["version"])

    before = version()
    made = make(admin_api)
    assert version() == before + 1
    admin_api.client.put(f"{PATH}/{made['id']}", json={"requests_per_minute": 5})
    assert version() == before + 2
    admin_api.client.post(f"{PATH}/{made['id']}/revoke")
    assert version() == before + 3


def test_proxies_tell_which_keys_are_used_without_changing_the_configuration(admin_api: AdminApi) -> None:
    used, idle = make(admin_api), make(admin_api, "bob")
    told = admin_api.client.post(f"{PATH}/used", json={"ids": [used["id"], used["id"], 999]})
    assert told.status_code == 204
    assert admin_api.client.get(f"{PATH}/{used['id']}").json()["last_used_at"] is not None
    assert admin_api.client.get(f"{PATH}/{idle['id']}").json()["last_used_at"] is None
    assert len(admin_api.client.get("/api/audit-log").json()) == 2


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "two words"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes.0"),
        ({"models": []}, "models"),
        ({"models": [""]}, "models.0"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"tokens_per_minute": -1}, "tokens_per_minute"),
        ({"tokens_per_minute": "1"}, "tokens_per_minute"),
        ({"expires_in_days": 0}, "expires_in_days"),
        ({"key": "sk-athena-mine"}, "key"),
    ],
)
def test_what_cannot_be_a_key_is_refused_by_its_field(admin_api: AdminApi, fields: dict[str, Any], field: str) -> None:
    answer = admin_api.client.post(PATH, json={"name": "alice", **fields})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert admin_api.client.get(PATH).json() == []


def test_a_key_that_is_not_there_is_404(admin_api: AdminApi) -> None:
    put = admin_api.client.put(f"{PATH}/9", json={})
    for answer in (admin_api.client.get(f"{PATH}/9"), put, admin_api.client.post(f"{PATH}/9/revoke")):
        assert (answer.status_code, answer.json()["detail"]) == (404, "there is no API key 9")
