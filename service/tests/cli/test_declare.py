"""`athena backends declare` against a real Admin API."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.admin import ADMIN_TOKEN, AdminApi, running_admin_api
from tests.support.ports import quiet_port
from tests.support.processes import ATHENA, athena, environment
from tests.support.registry import Registry, backend

MAC = "http://mac.example.internal:8080"


def entry(model: str = "phi:2b", url: str = MAC, **more: Any) -> dict[str, Any]:
    return {"model_name": model, "backend_type": "mlx", "endpoint_url": url, **more}


def declare(api: AdminApi | None, entries: Any, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command with these entries, or this text, on its standard input."""
    access = {"ADMIN_API_URL": api.base_url, "ADMIN_API_TOKEN": api.token} if api is not None else {}
    return subprocess.run(
        [ATHENA, "backends", "declare", *arguments],
        env=environment(**(access | variables)),
        input=entries if isinstance(entries, str) else json.dumps(entries),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rows(api: AdminApi) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = api.client.get("/api/llm-backends").json()
    return listed


def test_the_registry_is_brought_to_what_is_declared_and_then_stays(admin_api: AdminApi) -> None:
    theirs = admin_api.add("theirs", description="by hand")
    first = [entry(max_tokens=9, temperature_default=0.3), entry("gone")]
    assert told(declare(admin_api, first)) == {
        "changed": True,
        "changes": [f"+ backend phi:2b at {MAC}", f"+ backend gone at {MAC}"],
        "backends": 2,
    }
    assert told(declare(admin_api, first)) == {"changed": False, "changes": [], "backends": 2}
    second = [entry(max_tokens=10), entry("new", priority=2)]
    changes = [
        f"+ backend new at {MAC}",
        f"~ backend phi:2b at {MAC}: max_tokens 9 becomes 10",
        f"- backend gone at {MAC}",
    ]
    before = rows(admin_api)
    assert told(declare(admin_api, second, "--check")) == {"changed": True, "changes": changes, "backends": 2}
    assert rows(admin_api) == before
    assert told(declare(admin_api, second))["changes"] == changes
    found = {one["model_name"]: one for one in rows(admin_api)}
    assert set(found) == {"theirs", "phi:2b", "new"}
    assert found["theirs"] == theirs
    assert (found["phi:2b"]["max_tokens"], found["phi:2b"]["description"]) == (10, "Declared in the inventory.")
    assert found["new"]["priority"] == 2
    sent = admin_api.client.get("/api/audit-log").json()
    actions = [(one["action"], (one["after"] or one["before"])["model_name"]) for one in reversed(sent)]
    assert actions[-3:] == [("create", "new"), ("update", "phi:2b"), ("delete", "gone")]


def test_what_is_said_of_a_model_in_part_stays_as_well(admin_api: AdminApi) -> None:
    said = [entry(capabilities={"context_tokens": 4096})]
    assert told(declare(admin_api, said))["changed"] is True
    assert told(declare(admin_api, said)) == {"changed": False, "changes": [], "backends": 1}
    assert rows(admin_api)[0]["capabilities"] == {"context_tokens": 4096}


def test_a_part_of_what_is_declared_removes_nothing(admin_api: AdminApi) -> None:
    told(declare(admin_api, [entry("a"), entry("b")]))
    assert told(declare(admin_api, [entry("a", max_tokens=7)], "--partly"))["changes"] == [
        f"~ backend a at {MAC}: max_tokens 2048 becomes 7"
    ]
    assert [one["model_name"] for one in rows(admin_api)] == ["a", "b"]


def test_two_backends_of_one_model_are_a_route(admin_api: AdminApi) -> None:
    told(declare(admin_api, [entry(), entry(url="http://other.example.internal:1")]))
    assert [one["priority"] for one in rows(admin_api)] == [0, 0]


def test_the_list_may_be_a_file_and_the_mark_another(admin_api: AdminApi, tmp_path: Path) -> None:
    file = tmp_path / "backends.json"
    file.write_text(json.dumps([entry()]))
    told(declare(admin_api, "", str(file), "--mark", "Of the lab."))
    assert rows(admin_api)[0]["description"] == "Of the lab."
    assert told(declare(admin_api, [], "-"))["changed"] is False, "another mark's backends are left alone"
    assert told(declare(admin_api, [], "--mark", "Of the lab."))["changes"] == [f"- backend phi:2b at {MAC}"]


def test_a_list_that_does_not_hold_changes_nothing(admin_api: AdminApi) -> None:
    done = declare(admin_api, [entry(), entry("b", url="http://bob:pa55@mac"), entry("c", maxtokens=3)])
    assert done.returncode == 1
    assert done.stdout == ""
    assert "entry 2 (b): endpoint_url: must not hold a user or a password" in done.stderr
    assert "entry 3 (c): maxtokens is no field of a backend" in done.stderr
    assert "pa55" not in done.stderr
    assert rows(admin_api) == []


def test_what_cannot_be_read_and_an_empty_mark_are_told(admin_api: AdminApi, tmp_path: Path) -> None:
    missing = declare(admin_api, "", str(tmp_path / "none.json"))
    assert missing.returncode == 1
    assert missing.stderr.startswith(f"error: cannot read the declaration {tmp_path}/none.json: No such file")
    assert declare(admin_api, [], "--mark", " ").returncode == 2


def test_a_token_that_does_not_hold_is_told_and_not_shown(admin_api: AdminApi) -> None:
    done = declare(admin_api, [entry()], ADMIN_API_TOKEN="some-other-token-000")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "some-other-token" not in done.stderr
    assert rows(admin_api) == []


def test_a_change_in_the_middle_that_fails_says_what_was_changed_before() -> None:
    with RefusingRegistry(backend(1, "gone", "mlx", MAC, description="Declared in the inventory.")) as registry:
        done = declare(None, [entry("a"), entry("b")], ADMIN_API_URL=registry.url, ADMIN_API_TOKEN=ADMIN_TOKEN)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: `+ backend b at {MAC}` was refused: not today; changed before that: + backend a at {MAC}\n"
    )


class RefusingRegistry(Registry):
    """An Admin API that takes one new backend and no other."""

    posts = 0

    def answer(self, request: Any) -> None:
        """Answer one request."""
        if request.command == "GET":
            request.say(200, self._rows)
            return
        self.posts += 1
        refused = {"status": 409, "detail": "not today", "title": "Conflict"}
        request.say(201 if self.posts == 1 else 409, {"id": 9} if self.posts == 1 else refused)


def test_an_admin_api_that_does_not_answer_is_an_error_at_once_and_no_credential_is_shown() -> None:
    nobody = {"ADMIN_API_URL": f"http://bob:pa55@127.0.0.1:{quiet_port()}", "ADMIN_API_TOKEN": "secret-token-00000"}
    done = declare(None, [], **nobody)
    assert done.returncode == 1
    assert "no answer from the Admin API at http://127.0.0.1" in done.stderr
    assert "pa55" not in done.stderr
    assert "secret-token" not in done.stderr


def test_patience_waits_for_an_admin_api_that_is_not_up_yet(database_url: str) -> None:
    port = quiet_port()
    access = {"ADMIN_API_URL": f"http://127.0.0.1:{port}", "ADMIN_API_TOKEN": ADMIN_TOKEN}
    waiting = subprocess.Popen(
        [ATHENA, "backends", "declare", "--patience", "30"],
        env=environment(**access),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert waiting.stdin is not None
    waiting.stdin.write(json.dumps([entry()]))
    waiting.stdin.close()
    waiting.stdin = None
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(2)
    with running_admin_api(database_url, port):
        output, _ = waiting.communicate(timeout=30)
    assert waiting.returncode == 0
    assert json.loads(output)["changes"] == [f"+ backend phi:2b at {MAC}"]


def test_patience_waits_for_a_database_that_is_not_up_yet_and_ends() -> None:
    with Registry() as registry:
        registry.status = 503
        access = {"ADMIN_API_URL": registry.url, "ADMIN_API_TOKEN": "a-token-of-these-tests"}
        assert declare(None, [], "--patience", "1", **access).returncode == 1
        registry.status = 200
        assert told(declare(None, [], "--patience", "1", **access))["changed"] is False


def test_the_command_is_named_in_the_help() -> None:
    assert "declare" in athena("backends", "--help").stdout
