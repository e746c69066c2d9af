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
def test_what_the_admin_api_refuses_is_one_line_with_the_field(admin_api: AdminApi) -> None:
    access = {"ADMIN_API_URL": admin_api.base_url, "ADMIN_API_TOKEN": admin_api.token}
    made = athena("keys", "create", "alice", "--scope", "everything", **access)
    assert (made.returncode, made.stdout) == (1, "")
    assert made.stderr.startswith("error: scopes.0: Input should be 'prompts', 'embeddings', 'models' or 'admin'")
    gone = athena("keys", "revoke", "7", **access)
    assert (gone.returncode, gone.stderr) == (1, "error: there is no API key 7\n")
