import psycopg
import pytest

from tests.support.admin import AdminApi

FAIL = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the disk of the audit log'; END $$"
AT_ONCE = "CREATE TRIGGER fail BEFORE INSERT ON config_audit_log EXECUTE FUNCTION fail()"
AT_COMMIT = (
    "CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON config_audit_log "
    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()"
)
BODY = {"model_name": "m", "backend_type": "ollama", "endpoint_url": "http://localhost:11434"}


def test_every_change_says_who_did_what_and_what_it_was_before_and_after(admin_api: AdminApi) -> None:
    row = admin_api.add("phi3:mini")
    path = f"/api/llm-backends/{row['id']}"
    admin_api.client.put(path, json={"max_tokens": 4096})
    admin_api.client.post(f"{path}/toggle")
    admin_api.client.delete(path)
    entries = admin_api.client.get("/api/audit-log").json()
    assert [entry["action"] for entry in entries] == ["delete", "toggle", "update", "create"]
    assert {(entry["actor"], entry["entity"], entry["entity_id"]) for entry in entries} == {
        ("api-token", "llm_backend", row["id"])
    }
    deleted, toggled, updated, created = entries
    assert created["before"] is None
    assert created["after"]["endpoint_url"] == "http://localhost:11434"
    assert (updated["before"]["max_tokens"], updated["after"]["max_tokens"]) == (2048, 4096)
    assert (toggled["before"]["enabled"], toggled["after"]["enabled"]) == (True, False)
    assert deleted["before"] == toggled["after"]
    assert deleted["after"] is None


def test_the_audit_log_is_read_newest_first_and_as_long_as_asked(admin_api: AdminApi) -> None:
    for number in range(3):
        admin_api.add(f"m{number}")
    assert [entry["id"] for entry in admin_api.client.get("/api/audit-log?limit=2").json()] == [3, 2]
    assert admin_api.client.get("/api/audit-log?limit=0").status_code == 422
    assert admin_api.client.get("/api/audit-log?limit=1001").status_code == 422


def test_a_refused_change_is_not_in_the_audit_log(admin_api: AdminApi) -> None:
    admin_api.add("m")
    assert admin_api.client.post("/api/llm-backends", json=BODY).status_code == 409
    assert admin_api.client.delete("/api/llm-backends/99").status_code == 404
    assert len(admin_api.client.get("/api/audit-log").json()) == 1


@pytest.mark.parametrize("trigger", [AT_ONCE, AT_COMMIT])
def test_a_change_that_cannot_be_recorded_is_not_made(own_admin_api: AdminApi, trigger: str) -> None:
    row = own_admin_api.add("kept")
    with psycopg.connect(own_admin_api.database_url) as connection:
        connection.execute(FAIL)
        connection.execute(trigger)
    path = f"/api/llm-backends/{row['id']}"
    answers = [
        own_admin_api.client.post("/api/llm-backends", json=BODY),
        own_admin_api.client.put(path, json={"enabled": False}),
        own_admin_api.client.post(f"{path}/toggle"),
        own_admin_api.client.delete(path),
    ]
    assert [answer.status_code for answer in answers] == [500] * 4
    assert all("the disk of" not in answer.text and "Traceback" not in answer.text for answer in answers)
    assert all(answer.headers["content-type"] == "application/problem+json" for answer in answers)
    assert own_admin_api.client.get("/api/llm-backends").json() == [row]
