import json
from pathlib import Path

import pytest

from tests.support.admin import AdminApi
from tests.support.processes import athena


@pytest.fixture
def access(admin_api: AdminApi) -> dict[str, str]:
    return {"ADMIN_API_URL": admin_api.base_url, "ADMIN_API_TOKEN": admin_api.token}


def add(access: dict[str, str], *more: str) -> int:
    done = athena(
        "backends",
        "add",
        "phi:2b",
        "--type",
        "mlx",
        "--url",
        "http://mac.example.internal:8080",
        "--json",
        *more,
        **access,
    )
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)[0]["id"])


@pytest.mark.slow
def test_a_backend_is_registered_shown_changed_toggled_and_removed(admin_api: AdminApi, access: dict[str, str]) -> None:
    number = add(access, "--timeout", "20", "--description", "quick")
    listed = athena("backends", "list", **access)
    header, row = listed.stdout.splitlines()
    assert header.split()[:4] == ["ID", "MODEL", "TYPE", "ENDPOINT"]
    assert row.split()[:5] == [str(number), "phi:2b", "mlx", "http://mac.example.internal:8080", "yes"]

    changed = athena("backends", "set", str(number), "max_tokens=99", "description=a = b", "--json", **access)
    assert changed.returncode == 0, changed.stderr
    stored = admin_api.client.get(f"/api/llm-backends/{number}").json()
    assert (stored["max_tokens"], stored["description"], stored["timeout_seconds"]) == (99, "a = b", 20)

    assert " no " in athena("backends", "toggle", str(number), **access).stdout
    assert json.loads(athena("backends", "list", "--enabled-only", "--json", **access).stdout) == []
    assert athena("backends", "rm", str(number), **access).returncode == 0
    assert admin_api.client.get("/api/llm-backends").json() == []


def test_limits_are_set_and_taken_away(admin_api: AdminApi, access: dict[str, str]) -> None:
    limits = ["--max-concurrency", "4", "--max-queue", "0", "--first-token", "20", "--stall", "5"]
    number = add(access, *limits)
    names = ("max_concurrency", "max_queue", "first_token_seconds", "stall_seconds")
    stored = admin_api.client.get(f"/api/llm-backends/{number}").json()
    assert [stored[name] for name in names] == [4, 0, 20, 5]
    changed = athena("backends", "set", str(number), "max_concurrency=none", "stall_seconds=9", "--json", **access)
    row = json.loads(changed.stdout)[0]
    assert [row[name] for name in names] == [None, 0, 20, 9]


def test_what_a_model_can_do_is_said_and_taken_back(admin_api: AdminApi, access: dict[str, str]) -> None:
    number = add(access, "--capabilities", "tools:true,images:false,context_tokens:8192")
    stored = admin_api.client.get(f"/api/llm-backends/{number}").json()["capabilities"]
    assert stored == {"tools": True, "images": False, "context_tokens": 8192}
    set_ = ("backends", "set", str(number))
    assert json.loads(athena(*set_, "capabilities=none", "--json", **access).stdout)[0]["capabilities"] is None
    assert "none, or what its model can do" in athena(*set_, "capabilities=tools", **access).stderr
    assert "capabilities.vision" in athena(*set_, "capabilities=vision:true", **access).stderr


def test_what_the_admin_api_refuses_is_one_line_with_the_field(access: dict[str, str]) -> None:
    number = add(access)
    refused = athena("backends", "set", str(number), "temperature_default=7", **access)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: temperature_default: ")
    assert refused.stderr.count("\n") == 1


def test_a_second_backend_of_a_model_needs_a_place_in_its_route(access: dict[str, str]) -> None:
    add(access)
    again = athena("backends", "add", "phi:2b", "--type", "ollama", "--url", "http://localhost:11434", **access)
    assert again.returncode == 1
    assert "priority" in again.stderr
    assert athena(*again.args[1:], "--priority", "1", "--weight", "3", **access).returncode == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("colour=red", "no field 'colour'"),
        ("max_tokens=many", "max_tokens takes a whole number"),
        ("enabled=perhaps", "enabled takes true or false"),
        ("max_queue=", "max_queue takes a whole number, or none for the default"),
        ("max_tokens", "is not FIELD=VALUE"),
    ],
)
def test_a_change_that_is_none_is_wrong_usage(access: dict[str, str], change: str, complaint: str) -> None:
    done = athena("backends", "set", "1", change, **access)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_the_token_may_come_from_a_file(admin_api: AdminApi, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(admin_api.token + "\n")
    done = athena("backends", "list", "--token-file", str(file), ADMIN_API_URL=admin_api.base_url)
    assert done.returncode == 0, done.stderr


def test_a_missing_or_a_wrong_token_is_told_from_an_absent_server(admin_api: AdminApi, tmp_path: Path) -> None:
    url = {"ADMIN_API_URL": admin_api.base_url}
    assert "set ADMIN_API_TOKEN" in athena("backends", "list", **url).stderr
    wrong = athena("backends", "list", ADMIN_API_TOKEN="some-other-token-000", **url)
    assert wrong.returncode == 1
    assert "some-other-token" not in wrong.stderr
    assert (
        "cannot read the token file" in athena("backends", "list", "--token-file", str(tmp_path / "no"), **url).stderr
    )
    nobody = athena("backends", "list", ADMIN_API_URL="http://127.0.0.1:9", ADMIN_API_TOKEN="any")
    assert nobody.returncode == 1
    assert "no answer from the Admin API at http://127.0.0.1:9" in nobody.stderr
