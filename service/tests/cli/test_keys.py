"""`athena keys`: API keys over the Admin API."""

import json

import pytest

from tests.support.admin import AdminApi
from tests.support.processes import athena


@pytest.mark.slow
def test_keys_are_made_shown_once_listed_and_revoked(admin_api: AdminApi) -> None:
    access = {"ADMIN_API_URL": admin_api.base_url, "ADMIN_API_TOKEN": admin_api.token}
    limits = ("--model", "phi3:mini", "--model", "m", "--scope", "prompts", "--requests-per-minute", "60")
    made = athena("keys", "create", "alice", *limits, "--tokens-per-minute", "5000", **access)
    assert made.returncode == 0, made.stderr
    (key,) = made.stdout.splitlines()
    assert "it cannot be shown again" in made.stderr
    assert key not in made.stderr
    listed = athena("keys", "list", **access)
    assert key not in listed.stdout
    header, alice = listed.stdout.splitlines()
    assert header.split()[:4] == ["ID", "NAME", "KEY", "STATE"]
    cells = alice.split()
    assert cells[:8] == ["1", "alice", f"{key[:16]}…", "valid", "prompts", "m,phi3:mini", "60", "5000"]
    assert cells[-2:] == ["-", "-"]
    assert athena("keys", "revoke", "1", **access).stdout == f"revoked key 1 of alice, {key[:16]}…\n"
    assert athena("keys", "list", **access).stdout.splitlines()[1].split()[3] == "revoked"
    assert json.loads(athena("keys", "list", "--json", "--valid-only", **access).stdout) == []


@pytest.mark.slow
def test_what_a_key_is_bound_to_is_changed_field_by_field(admin_api: AdminApi) -> None:
    access = {"ADMIN_API_URL": admin_api.base_url, "ADMIN_API_TOKEN": admin_api.token}
    admin_api.client.post("/api/api-keys", json={"name": "alice", "tokens_per_minute": 5000}).raise_for_status()
    changed = athena(
        "keys", "set", "1", "scopes=models,prompts", "models=m, phi3:mini", "tokens_per_minute=none", **access
    )
    assert changed.returncode == 0, changed.stderr
    cells = changed.stdout.splitlines()[1].split()
    assert cells[3:8] == ["valid", "prompts,models", "m,phi3:mini", "-", "-"]
    (row,) = json.loads(athena("keys", "set", "1", "models=all", "requests_per_minute=60", "--json", **access).stdout)
    assert (row["models"], row["requests_per_minute"], row["scopes"]) == (None, 60, ["prompts", "models"])
    wrong = athena("keys", "set", "1", "requests_per_minute=many", **access)
    assert wrong.returncode == 2
    assert "requests_per_minute takes a whole number, or none for no limit, not 'many'" in " ".join(
        wrong.stderr.split()
    )
    refused = athena("keys", "set", "1", "scopes=everything", **access)
    assert (refused.returncode, refused.stderr.partition(": ")[2].startswith("scopes.0: ")) == (1, True)


@pytest.mark.slow
def test_what_the_admin_api_refuses_is_one_line_with_the_field(admin_api: AdminApi) -> None:
    access = {"ADMIN_API_URL": admin_api.base_url, "ADMIN_API_TOKEN": admin_api.token}
    made = athena("keys", "create", "alice", "--scope", "everything", **access)
    assert (made.returncode, made.stdout) == (1, "")
    assert made.stderr.startswith("error: scopes.0: Input should be 'prompts', 'embeddings', 'models' or 'admin'")
    gone = athena("keys", "revoke", "7", **access)
    assert (gone.returncode, gone.stderr) == (1, "error: there is no API key 7\n")
