import asyncio
import socket

import httpx
import psycopg
import pytest

from athena.auth.tokens import Scope, issue
from athena.auth.users import issue_token
from athena.db.session import Database
from athena.errors import ConflictError, InvalidInputError
from tests.support.admin import JWT_SECRET, AdminApi


def make_token(api: AdminApi, user: str, scope: Scope = Scope.ADMIN) -> str:
    async def make() -> str:
        database = Database(api.database_url)
        try:
            return await issue_token(database, JWT_SECRET, user=user, scope=scope, days=1, actor="tester")
        finally:
            await database.close()

    return asyncio.run(make())


def get(api: AdminApi, token: str | None, path: str = "/api/llm-backends") -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.get(api.base_url + path, headers=headers)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/llm-backends"),
        ("POST", "/api/llm-backends"),
        ("GET", "/api/llm-backends/1"),
        ("PUT", "/api/llm-backends/1"),
        ("DELETE", "/api/llm-backends/1"),
        ("POST", "/api/llm-backends/1/toggle"),
        ("POST", "/api/llm-backends/figures"),
        ("GET", "/api/audit-log"),
    ],
)
def test_without_a_token_nothing_of_the_registry_is_to_be_had(admin_api: AdminApi, method: str, path: str) -> None:
    answer = httpx.request(method, admin_api.base_url + path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("token", [None, "wrong"])
@pytest.mark.parametrize("body", [b"{", b'{"model_name": 1}', b"[" * 100_000])
def test_the_body_of_a_caller_who_may_not_send_it_is_not_looked_at(
    admin_api: AdminApi, token: str | None, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    for method, path in (("POST", "/api/llm-backends"), ("POST", "/api/llm-backends/figures")):
        assert httpx.request(method, admin_api.base_url + path, content=body, headers=headers).status_code == 401


def test_a_caller_without_a_token_is_refused_before_the_body_has_arrived(admin_api: AdminApi) -> None:
    url = httpx.URL(admin_api.base_url)
    with socket.create_connection((url.host, url.port or 80), timeout=5) as connection:
        connection.sendall(
            b"POST /api/llm-backends HTTP/1.1\r\nHost: admin\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000000000\r\n\r\n{"
        )
        assert connection.recv(64).startswith(b"HTTP/1.1 401 ")


def test_a_token_of_too_small_a_scope_is_told_so_before_the_body_is_looked_at(admin_api: AdminApi) -> None:
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {make_token(admin_api, 'router', Scope.SERVICE)}",
    }
    assert httpx.post(f"{admin_api.base_url}/api/llm-backends", content=b"{", headers=headers).status_code == 403


@pytest.mark.parametrize("token", ["wrong", "the-static-token-of-these-test", "a.b.c", "tökén"])
def test_a_wrong_token_is_refused(admin_api: AdminApi, token: str) -> None:
    headers = {b"Authorization": f"Bearer {token}".encode()}
    assert httpx.get(admin_api.base_url + "/api/llm-backends", headers=headers).status_code == 401


def test_a_personal_token_holds_and_its_user_is_named_in_the_audit_log(admin_api: AdminApi) -> None:
    token = make_token(admin_api, "jay")
    body = {"model_name": "phi3:mini", "backend_type": "ollama", "endpoint_url": "http://localhost:11434"}
    answer = httpx.post(
        admin_api.base_url + "/api/llm-backends", json=body, headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code == 201
    newest, user_added = admin_api.client.get("/api/audit-log").json()
    assert (newest["actor"], newest["action"], newest["entity"]) == ("jay", "create", "llm_backend")
    assert (user_added["actor"], user_added["action"], user_added["entity"]) == ("tester", "create", "admin_user")


def test_a_token_of_a_user_who_does_not_exist_is_refused(admin_api: AdminApi) -> None:
    assert get(admin_api, issue(JWT_SECRET, user="nobody")).status_code == 401


@pytest.mark.parametrize("name", ["nul\x00", "", "a b"])
def test_a_token_of_a_name_that_cannot_be_is_refused(admin_api: AdminApi, name: str) -> None:
    assert get(admin_api, issue(JWT_SECRET, user=name)).status_code == 401


def test_disabling_a_user_ends_their_tokens_at_once(admin_api: AdminApi) -> None:
    token = make_token(admin_api, "jay")
    assert get(admin_api, token).status_code == 200
    with psycopg.connect(admin_api.database_url) as connection:
        connection.execute("UPDATE admin_users SET enabled = false WHERE name = 'jay'")
    assert get(admin_api, token).status_code == 401
    with pytest.raises(ConflictError, match="jay is disabled"):
        make_token(admin_api, "jay")


def test_a_service_token_reads_and_reports_but_changes_nothing(admin_api: AdminApi) -> None:
    token = make_token(admin_api, "router", Scope.SERVICE)
    row = admin_api.add("phi3:mini")
    assert get(admin_api, token).json() == [row]
    assert get(admin_api, token, "/api/audit-log").status_code == 403
    refused = httpx.delete(
        admin_api.base_url + f"/api/llm-backends/{row['id']}", headers={"Authorization": f"Bearer {token}"}
    )
    assert refused.status_code == 403
    assert "this needs a token of the scope admin; this one has service" in refused.json()["detail"]


def test_narrowing_a_users_scope_narrows_their_tokens(admin_api: AdminApi) -> None:
    token = make_token(admin_api, "jay")
    with psycopg.connect(admin_api.database_url) as connection:
        connection.execute("UPDATE admin_users SET scope = 'service' WHERE name = 'jay'")
    assert get(admin_api, token, "/api/audit-log").status_code == 403
    with pytest.raises(ConflictError, match="has the scope service"):
        make_token(admin_api, "jay")


def test_a_name_that_cannot_be_one_gets_no_token(admin_api: AdminApi) -> None:
    with pytest.raises(InvalidInputError, match="a user's name is"):
        make_token(admin_api, "a b")


def test_the_probes_and_the_lookup_of_services_need_no_token(admin_api: AdminApi) -> None:
    admin_api.add("phi3:mini")
    for path in ("/health", "/livez", "/api/llm-backends/model/phi3:mini", "/api/llm-backends/changes?after=0&wait=0"):
        assert get(admin_api, None, path).status_code == 200, path
