import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import psycopg
import pytest

from tests.support.admin import AdminApi

OLLAMA = "http://localhost:11434"
MLX = "http://localhost:8081"
NEW = {"model_name": "phi3:mini", "backend_type": "ollama", "endpoint_url": OLLAMA}


def faults(answer: Any) -> set[str]:
    """Return the fields at fault that a 422 names."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return {fault["field"] for fault in answer.json()["errors"]}


def test_a_new_backend_is_answered_whole_with_its_place(admin_api: AdminApi) -> None:
    answer = admin_api.client.post(
        "/api/llm-backends", json={**NEW, "description": "Phi-3 Mini via Ollama", "temperature_default": 0.3}
    )
    assert answer.status_code == 201
    row = answer.json()
    assert answer.headers["location"] == f"/api/llm-backends/{row['id']}"
    datetime.strptime(row.pop("created_at"), "%Y-%m-%dT%H:%M:%S%z")
    datetime.strptime(row.pop("updated_at"), "%Y-%m-%dT%H:%M:%S%z")
    assert row == {
        "id": 1,
        **NEW,
        "enabled": True,
        "max_tokens": 2048,
        "temperature_default": 0.3,
        "timeout_seconds": 60,
        "description": "Phi-3 Mini via Ollama",
        "priority": 0,
        "weight": 1,
        "max_concurrency": None,
        "max_queue": None,
        "first_token_seconds": None,
        "stall_seconds": None,
        "capabilities": None,
        "arm": None,
        "share": None,
        "avg_tokens_per_sec": None,
        "avg_latency_ms": None,
        "total_requests": 0,
        "total_errors": 0,
    }
    assert admin_api.client.get(answer.headers["location"]).json() == answer.json()


def test_the_list_can_leave_out_disabled_backends(admin_api: AdminApi) -> None:
    enabled = admin_api.add("a")
    disabled = admin_api.add("b", enabled=False)
    assert admin_api.client.get("/api/llm-backends").json() == [enabled, disabled]
    assert admin_api.client.get("/api/llm-backends?enabled_only=true").json() == [enabled]


def test_a_second_backend_of_a_model_is_refused_with_what_to_do(admin_api: AdminApi) -> None:
    first = admin_api.add("phi3:mini")
    answer = admin_api.client.post("/api/llm-backends", json={**NEW, "endpoint_url": MLX})
    assert answer.status_code == 409
    assert f"PUT /api/llm-backends/{first['id']}" in answer.json()["detail"]
    assert "priority, weight or arm" in answer.json()["detail"]


@pytest.mark.parametrize("place", [{"priority": 0}, {"priority": 7}, {"weight": 3}, {"arm": "new"}])
def test_naming_a_place_makes_a_route(admin_api: AdminApi, place: dict[str, Any]) -> None:
    admin_api.add("phi3:mini")
    admin_api.add("phi3:mini", endpoint_url=MLX, backend_type="mlx", **place)
    assert len(admin_api.client.get("/api/llm-backends/model/phi3:mini").json()["route"]) == 2


def test_the_same_engine_twice_for_one_model_is_refused_in_any_case(admin_api: AdminApi) -> None:
    first = admin_api.add("phi3:mini")
    answer = admin_api.client.post("/api/llm-backends", json={**NEW, "endpoint_url": OLLAMA + "/", "priority": 5})
    assert answer.status_code == 409
    assert f"the backend {first['id']} already serves phi3:mini by ollama at {OLLAMA}" in answer.json()["detail"]


def test_of_two_people_who_add_a_model_at_once_one_is_refused(admin_api: AdminApi) -> None:
    def add(number: int) -> int:
        body = {**NEW, "endpoint_url": f"http://engine-{number}.example.internal"}
        return admin_api.client.post("/api/llm-backends", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(add, range(8))) == [201] + [409] * 7


def test_put_changes_what_it_names_and_nothing_else(admin_api: AdminApi) -> None:
    before = admin_api.add("phi3:mini", description="kept")
    answer = admin_api.client.put(
        f"/api/llm-backends/{before['id']}", json={"backend_type": "mlx", "endpoint_url": MLX}
    )
    assert answer.status_code == 200
    assert {**answer.json(), "updated_at": ""} == {
        **before,
        "backend_type": "mlx",
        "endpoint_url": MLX,
        "updated_at": "",
    }


def test_put_takes_a_description_away(admin_api: AdminApi) -> None:
    row = admin_api.add("phi3:mini", description="gone soon")
    answer = admin_api.client.put(f"/api/llm-backends/{row['id']}", json={"description": None})
    assert answer.json()["description"] is None


LIMITS = {"max_concurrency": 4, "max_queue": 0, "first_token_seconds": 20, "stall_seconds": 5}


def test_limits_are_kept_told_to_the_router_and_taken_away_by_null(admin_api: AdminApi) -> None:
    row = admin_api.add("phi3:mini", **LIMITS)
    assert {name: row[name] for name in LIMITS} == LIMITS
    looked_up = admin_api.client.get("/api/llm-backends/model/phi3:mini").json()
    assert {name: looked_up["route"][0][name] for name in LIMITS} == LIMITS
    changed = admin_api.client.put(f"/api/llm-backends/{row['id']}", json={**dict.fromkeys(LIMITS), "max_queue": 7})
    assert {name: changed.json()[name] for name in LIMITS} == {**dict.fromkeys(LIMITS), "max_queue": 7}
    entry = admin_api.client.get("/api/audit-log?limit=1").json()[0]
    assert {name: (entry["before"][name], entry["after"][name]) for name in LIMITS} == {
        "max_concurrency": (4, None),
        "max_queue": (0, 7),
        "first_token_seconds": (20, None),
        "stall_seconds": (5, None),
    }


def test_what_a_model_can_do_is_kept_as_it_was_said_told_to_the_router_and_taken_away_by_null(
    admin_api: AdminApi,
) -> None:
    said = {"tools": True, "images": False, "context_tokens": 8192}
    row = admin_api.add("phi3:mini", capabilities=said)
    assert row["capabilities"] == said
    looked_up = admin_api.client.get("/api/llm-backends/model/phi3:mini").json()
    assert looked_up["route"][0]["capabilities"] == said
    path = f"/api/llm-backends/{row['id']}"
    assert admin_api.client.put(path, json={"capabilities": {"tools": False}}).json()["capabilities"] == {
        "tools": False
    }
    assert admin_api.client.put(path, json={"capabilities": None}).json()["capabilities"] is None
    entry = admin_api.client.get("/api/audit-log?limit=1").json()[0]
    assert (entry["before"]["capabilities"], entry["after"]["capabilities"]) == ({"tools": False}, None)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"vision": True}, "capabilities.vision"),
        ({"tools": "yes"}, "capabilities.tools"),
        ({"tools": None}, "capabilities.tools"),
        ({"context_tokens": 0}, "capabilities.context_tokens"),
        (["tools"], "capabilities"),
    ],
)
def test_a_capability_that_makes_no_sense_is_refused_by_name(admin_api: AdminApi, said: object, field: str) -> None:
    answer = admin_api.client.post("/api/llm-backends", json={**NEW, "capabilities": said})
    assert (answer.status_code, [fault["field"] for fault in answer.json()["errors"]]) == (422, [field])


def test_a_limit_out_of_bounds_is_refused_with_the_bound(admin_api: AdminApi) -> None:
    answer = admin_api.client.post("/api/llm-backends", json={**NEW, "max_concurrency": 0, "max_queue": 100_001})
    assert {fault["field"]: fault["detail"] for fault in answer.json()["errors"]} == {
        "max_concurrency": "Input should be greater than or equal to 1",
        "max_queue": "Input should be less than or equal to 100000",
    }


@pytest.mark.parametrize(
    "field", ["model_name", "backend_type", "endpoint_url", "enabled", "max_tokens", "priority", "weight"]
)
def test_put_refuses_null_where_there_must_be_a_value(admin_api: AdminApi, field: str) -> None:
    row = admin_api.add("phi3:mini")
    assert faults(admin_api.client.put(f"/api/llm-backends/{row['id']}", json={field: None})) == {field}


def test_put_that_changes_nothing_is_no_change(admin_api: AdminApi) -> None:
    row = admin_api.add("phi3:mini")
    for body in ({}, {"enabled": True, "endpoint_url": OLLAMA + "/"}):
        assert admin_api.client.put(f"/api/llm-backends/{row['id']}", json=body).json() == row
    assert len(admin_api.client.get("/api/audit-log").json()) == 1


def test_put_renames_into_another_model_only_with_a_place(admin_api: AdminApi) -> None:
    admin_api.add("a")
    other = admin_api.add("b", endpoint_url=MLX)
    path = f"/api/llm-backends/{other['id']}"
    assert admin_api.client.put(path, json={"model_name": "a"}).status_code == 409
    assert admin_api.client.put(path, json={"model_name": "a", "priority": 1}).status_code == 200


def test_put_cannot_make_two_backends_the_same(admin_api: AdminApi) -> None:
    admin_api.add("a")
    other = admin_api.add("a", endpoint_url=MLX, priority=1)
    answer = admin_api.client.put(f"/api/llm-backends/{other['id']}", json={"endpoint_url": OLLAMA})
    assert answer.status_code == 409
    assert admin_api.client.get(f"/api/llm-backends/{other['id']}").json() == other


def test_toggle_goes_there_and_back(admin_api: AdminApi) -> None:
    row = admin_api.add("phi3:mini")
    path = f"/api/llm-backends/{row['id']}/toggle"
    assert admin_api.client.post(path).json()["enabled"] is False
    assert admin_api.client.post(path).json()["enabled"] is True


def test_a_deleted_backend_is_gone(admin_api: AdminApi) -> None:
    row = admin_api.add("phi3:mini")
    path = f"/api/llm-backends/{row['id']}"
    answer = admin_api.client.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert admin_api.client.get(path).status_code == 404
    assert admin_api.client.get("/api/llm-backends/model/phi3:mini").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/llm-backends/7"),
        ("PUT", "/api/llm-backends/7"),
        ("DELETE", "/api/llm-backends/7"),
        ("POST", "/api/llm-backends/7/toggle"),
        ("GET", "/api/llm-backends/model/unknown"),
        ("GET", "/api/llm-backends/-1"),
        ("GET", "/api/llm-backends/one"),
        ("GET", "/nowhere"),
    ],
)
def test_what_is_not_there_is_not_found(admin_api: AdminApi, method: str, path: str) -> None:
    answer = admin_api.client.request(method, path, json={} if method == "PUT" else None)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("number", [0, 2**31, 2**63, 10**40])
def test_an_id_that_no_row_can_have_is_no_server_error(admin_api: AdminApi, number: int) -> None:
    assert faults(admin_api.client.get(f"/api/llm-backends/{number}")) == {"backend_id"}


def test_a_wrong_method_says_which_ones_there_are(admin_api: AdminApi) -> None:
    answer = admin_api.client.delete("/api/llm-backends/changes")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"
    assert admin_api.client.patch("/api/llm-backends/1").headers["allow"] == "DELETE, GET, PUT"


@pytest.mark.parametrize("name", ["phi3:mini", "mlx-community/Phi-3-mini-4k", "a b", "模型", "a%2Fb?c=d#e", ".."])
def test_a_model_is_found_whatever_its_name_is_made_of(admin_api: AdminApi, name: str) -> None:
    row = admin_api.add(name)
    answer = admin_api.client.get("/api/llm-backends/model/" + "".join(f"%{byte:02X}" for byte in name.encode()))
    assert answer.json()["id"] == row["id"]


def test_a_name_with_a_slash_is_found_as_it_is_written(admin_api: AdminApi) -> None:
    row = admin_api.add("org/name:8b")
    assert admin_api.client.get("/api/llm-backends/model/org/name:8b").json()["id"] == row["id"]


def test_a_model_that_is_found_tells_its_whole_route_in_order(admin_api: AdminApi) -> None:
    last = admin_api.add("m", priority=5)
    disabled = admin_api.add("m", priority=0, endpoint_url=MLX, enabled=False)
    second = admin_api.add("m", weight=3, backend_type="mlx", endpoint_url=MLX)
    answer = admin_api.client.get("/api/llm-backends/model/m").json()
    assert answer.pop("route") == [disabled, second, last]
    assert answer.pop("version") == 3
    assert answer == disabled


def test_unknown_fields_are_named(admin_api: AdminApi) -> None:
    assert faults(admin_api.client.post("/api/llm-backends", json={**NEW, "modle": 1, "id": 3})) == {"modle", "id"}
    row = admin_api.add("phi3:mini")
    assert faults(admin_api.client.put(f"/api/llm-backends/{row['id']}", json={"total_requests": 0})) == {
        "total_requests"
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_name", ""),
        ("model_name", "x" * 201),
        ("model_name", "a\x00b"),
        ("model_name", "a\nb"),
        ("model_name", "a\x85b"),
        ("model_name", "\ud800"),
        ("model_name", 3),
        ("backend_type", "vllm"),
        ("backend_type", ["mlx"]),
        ("endpoint_url", "localhost:11434"),
        ("endpoint_url", "ftp://localhost"),
        ("endpoint_url", "http://"),
        ("endpoint_url", "http://user:secret@localhost"),
        ("endpoint_url", "http://localhost:0"),
        ("endpoint_url", "http://localhost:65536"),
        ("endpoint_url", "http://localhost:1e3"),
        ("endpoint_url", "http://local host"),
        ("endpoint_url", "http://localhost/?a=b"),
        ("endpoint_url", "http://localhost/\n"),
        ("endpoint_url", "http://localhost\x00"),
        ("endpoint_url", "http://" + "h" * 500),
        ("enabled", "yes"),
        ("enabled", None),
        ("max_tokens", 0),
        ("max_tokens", 2**31),
        ("max_tokens", 10**400),
        ("max_tokens", "2048"),
        ("max_tokens", True),
        ("temperature_default", -0.1),
        ("temperature_default", 2.1),
        ("temperature_default", 10**400),
        ("temperature_default", "hot"),
        ("timeout_seconds", 0),
        ("timeout_seconds", 86401),
        ("description", "x" * 2001),
        ("description", "a\x00b"),
        ("priority", -1),
        ("priority", 2**31),
        ("weight", -1),
        ("weight", 1001),
        ("max_concurrency", 0),
        ("max_concurrency", 10_001),
        ("max_concurrency", "8"),
        ("max_queue", -1),
        ("max_queue", 100_001),
        ("max_queue", 1.5),
        ("first_token_seconds", 0),
        ("first_token_seconds", 86401),
        ("stall_seconds", 0),
        ("stall_seconds", 86401),
        ("stall_seconds", True),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_its_field_named(admin_api: AdminApi, field: str, value: Any) -> None:
    headers = {"content-type": "application/json"}
    body = json.dumps({**NEW, field: value})
    assert faults(admin_api.client.post("/api/llm-backends", content=body, headers=headers)) == {field}
    row = admin_api.add("good")
    body = json.dumps({field: value})
    assert faults(admin_api.client.put(f"/api/llm-backends/{row['id']}", content=body, headers=headers)) == {field}


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_none_are_refused(admin_api: AdminApi, number: bytes) -> None:
    row = admin_api.add("phi3:mini")
    answer = admin_api.client.put(
        f"/api/llm-backends/{row['id']}",
        content=b'{"temperature_default": ' + number + b"}",
        headers={"content-type": "application/json"},
    )
    assert faults(answer) == {"temperature_default"}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"max_tokens": ' + b"9" * 5000 + b"}"]
)
def test_a_body_that_is_no_object_is_refused(admin_api: AdminApi, body: bytes) -> None:
    answer = admin_api.client.post("/api/llm-backends", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in {400, 422}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("body", "place"), [(b"{", 1), (b'{"model_name": x}', 15)])
def test_a_body_that_is_no_json_is_named_with_the_place(admin_api: AdminApi, body: bytes, place: int) -> None:
    answer = admin_api.client.post("/api/llm-backends", content=body, headers={"content-type": "application/json"})
    assert faults(answer) == {"body"}
    assert answer.json()["detail"].startswith(f"body: not JSON from character {place} on: ")


def test_a_field_name_that_is_no_text_is_refused(admin_api: AdminApi) -> None:
    answer = admin_api.client.post(
        "/api/llm-backends", content=b'{"\\ud800": 1}', headers={"content-type": "application/json"}
    )
    assert answer.status_code in {400, 422}, answer.text


def test_a_number_with_nothing_after_its_point_is_whole(admin_api: AdminApi) -> None:
    answer = admin_api.client.post("/api/llm-backends", json={**NEW, "max_tokens": 4096.0, "temperature_default": 1})
    assert (answer.json()["max_tokens"], answer.json()["temperature_default"]) == (4096, 1.0)


def test_a_misspelt_parameter_is_named(admin_api: AdminApi) -> None:
    assert faults(admin_api.client.get("/api/llm-backends?enabled-only=true")) == {"enabled-only"}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://localhost:11434/", "http://localhost:11434"),
        ("https://engines.example.internal/mlx/", "https://engines.example.internal/mlx"),
        ("http://[::1]:8081", "http://[::1]:8081"),
        ("http://mlx_service.athena.svc.cluster.local:8080", "http://mlx_service.athena.svc.cluster.local:8080"),
    ],
)
def test_an_address_is_kept_without_its_last_slash(admin_api: AdminApi, given: str, kept: str) -> None:
    assert admin_api.add("m", endpoint_url=given)["endpoint_url"] == kept


def test_an_auto_backend_is_one_row(admin_api: AdminApi) -> None:
    row = admin_api.add("llama3.1:8b", backend_type="auto", endpoint_url=MLX)
    assert admin_api.client.get("/api/llm-backends").json() == [row]


def test_times_are_written_in_utc_to_the_second(admin_api: AdminApi) -> None:
    row = admin_api.add("phi3:mini")
    with psycopg.connect(admin_api.database_url) as connection:
        connection.execute("UPDATE llm_backends SET created_at = '2025-11-15 11:00:00.9+01'")
    assert admin_api.client.get(f"/api/llm-backends/{row['id']}").json()["created_at"] == "2025-11-15T10:00:00Z"
