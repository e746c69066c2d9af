"""A caller's request id, at each place that its request comes to."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI
from structlog.testing import capture_logs

from athena import problems
from athena.observability.identity import RequestIdentity, identify
from tests.observability.installation import BROKEN, Installation, installation
from tests.proxy.standin import Heard, StandIn
from tests.support.admin import AdminApi
from tests.support.http_server import serving as serving_asgi
from tests.support.ports import quiet_port
from tests.support.processes import Server, serving
from tests.support.registry import TOKEN

CHAT = "/v1/chat/completions"
INSANE = ("", "has spaces", "x" * 129, 'quote"s', "line\tend")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("installation")) as installed:
        yield installed


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}


def asked(installed: Installation, request_id: str) -> list[str]:
    """Return the models that the engine was asked for in the name of a request."""
    return [heard.json["model"] for heard in installed.engine.heard if heard.headers.get("x-request-id") == request_id]


def logged(server: Server, request_id: str, last: str) -> list[str]:
    """Return the events that a process logged about a request, once the last of them is there."""
    deadline = time.monotonic() + 5
    while True:
        events = [line["event"] for line in server.lines() if line.get("request_id") == request_id]
        if last in events:
            return events
        assert time.monotonic() < deadline, server.lines()
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["m-openai", "small"])
def test_from_the_caller_through_the_proxy_to_the_engine_and_back(
    installed: Installation, model: str, stream: bool
) -> None:
    given = f"caller:{model}-{stream}.1_a"
    url = installed.proxy.url + CHAT
    answer = httpx.post(url, json=body(model, stream=stream), headers={"X-Request-ID": given})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == given
    assert asked(installed, given) == [model]
    assert logged(installed.proxy, given, "llm_request_completed") == ["routing_llm_request", "llm_request_completed"]


def test_from_the_caller_through_the_orchestrator_to_the_engine_and_back(installed: Installation) -> None:
    given = "caller-of-the-orchestrator"
    url = installed.orchestrator.url + "/query"
    answer = httpx.post(url, json={"query": "Is it warm?", "mode": "owner"}, headers={"X-Request-ID": given})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == given
    assert asked(installed, given) == ["small", "large"]
    deadline = time.monotonic() + 5
    while (events := logged(installed.orchestrator, given, "llm_request_completed")).count(events[-1]) < 2:
        assert time.monotonic() < deadline, events
    assert events == ["routing_llm_request", "llm_request_completed"] * 2


def test_what_fails_is_found_by_its_id_as_well(installed: Installation) -> None:
    given = "one-that-fails"
    answer = httpx.post(installed.proxy.url + CHAT, json=body(BROKEN), headers={"X-Request-ID": given})
    assert answer.status_code >= 500
    assert answer.headers["x-request-id"] == given
    assert asked(installed, given) == [BROKEN]
    assert logged(installed.proxy, given, "llm_request_failed") == ["routing_llm_request", "llm_request_failed"]


def test_without_one_of_its_own_a_request_gets_one_that_goes_all_the_way(installed: Installation) -> None:
    for url, question, models in (
        (installed.proxy.url + CHAT, body("m-openai"), ["m-openai"]),
        (installed.orchestrator.url + "/query", {"query": "Is it warm?", "mode": "owner"}, ["small", "large"]),
    ):
        answer = httpx.post(url, json=question)
        given = answer.headers["x-request-id"]
        assert len(given) == 16
        assert asked(installed, given) == models


@pytest.mark.parametrize("path", ["/health", "/livez", "/nothing-here"])
def test_every_answer_of_every_service_bears_an_id(
    installed: Installation, admin_api: AdminApi, agent: Server, path: str
) -> None:
    for url in (installed.proxy.url, installed.orchestrator.url, admin_api.base_url, agent.url):
        assert httpx.get(url + path, headers={"X-Request-ID": "mine"}).headers.get_list("x-request-id") == ["mine"]
        for insane in INSANE:
            made = httpx.get(url + path, headers={"X-Request-ID": insane}).headers["x-request-id"]
            assert made != insane
            assert len(made) == 16


def test_errors_bear_it_too(installed: Installation, admin_api: AdminApi) -> None:
    for url in (installed.proxy.url + CHAT, installed.orchestrator.url + "/query"):
        answer = httpx.post(url, content=b"{", headers={"X-Request-ID": "mine"})
        assert answer.status_code in (400, 422)
        assert answer.headers["x-request-id"] == "mine"
    answer = httpx.get(admin_api.base_url + "/api/llm-backends", headers={"X-Request-ID": "mine"})
    assert answer.status_code == 401
    assert answer.headers["x-request-id"] == "mine"


def test_a_fault_of_a_service_is_answered_and_logged_with_it() -> None:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(RequestIdentity)

    @app.get("/")
    async def fail() -> None:
        raise RuntimeError("a fault of ours")

    told = capture_logs(processors=[structlog.contextvars.merge_contextvars])
    with serving_asgi(app) as url, told as lines:
        answer = httpx.get(url, headers={"X-Request-ID": "mine"})
    assert answer.status_code == 500
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert "a fault of ours" not in answer.text
    assert [line["request_id"] for line in lines if line["event"] == "unexpected_error"] == ["mine"]


def test_the_log_lines_of_the_admin_api_about_a_request_bear_it(tmp_path: Path) -> None:
    away = f"postgresql://athena:secret@127.0.0.1:{quiet_port()}/athena"
    with serving("admin", tmp_path / "admin.log", DATABASE_URL=away, ADMIN_API_TOKEN=TOKEN) as admin:
        url = admin.url + "/api/llm-backends/model/m"
        answer = httpx.get(url, headers={"X-Request-ID": "mine"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (503, "mine")
        told = logged(admin, "mine", "http_request_completed")
        assert sorted(told) == ["database_unavailable", "http_request_completed"]


def test_a_request_to_the_admin_api_that_succeeds_is_found_by_its_id(database_url: str, tmp_path: Path) -> None:
    row = {"model_name": "a-model-of-somebody", "backend_type": "ollama", "endpoint_url": "http://127.0.0.1:11434"}
    headers = {"X-Request-ID": "mine", "Authorization": f"Bearer {TOKEN}"}
    with serving("admin", tmp_path / "admin.log", DATABASE_URL=database_url, ADMIN_API_TOKEN=TOKEN) as admin:
        made = httpx.post(admin.url + "/api/llm-backends", json=row, headers=headers)
        assert made.status_code == 201, made.text
        httpx.get(f"{admin.url}/api/llm-backends/{made.json()['id']}", headers=headers | {"X-Request-ID": "another"})
        httpx.get(admin.url + "/health", headers={"X-Request-ID": "a-probe"})
        assert logged(admin, "another", "http_request_completed") == ["http_request_completed"]
        (line,) = [line for line in admin.lines() if line.get("request_id") == "mine"]
        del line["timestamp"]
        assert 0 < line.pop("duration") < 10
        assert line == {
            "event": "http_request_completed",
            "level": "info",
            "service": "admin",
            "request_id": "mine",
            "method": "POST",
            "route": "/api/llm-backends",
            "status": 201,
        }
        said = (tmp_path / "admin.log").read_text()
        assert TOKEN not in said
        assert "a-model-of-somebody" not in said
        assert "a-probe" not in said, "what probes ask all the time is not told"


class AdminStandIn(StandIn):
    """Takes no report."""

    def __init__(self) -> None:
        super().__init__(self._refuse)

    async def _refuse(self, heard: Heard) -> None:
        await heard.answer(b"{}", status=503)


@pytest.fixture(scope="module")
def admin_stand_in() -> Iterator[AdminStandIn]:
    admin = AdminStandIn()
    with admin:
        yield admin


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, admin_stand_in: AdminStandIn) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("agent")
    config = folder / "agent.json"
    engine = {"name": "llama", "kind": "mlx", "url": f"http://127.0.0.1:{quiet_port()}", "model": "m"}
    config.write_text(json.dumps({"host": "mac-1", "engines": [engine]}))
    variables = {"AGENT_CONFIG": str(config), "ADMIN_API_URL": admin_stand_in.url, "ADMIN_API_TOKEN": TOKEN}
    with serving("agent", folder / "agent.log", **variables) as agent:
        yield agent


def test_a_report_of_an_agent_has_an_id_at_both_ends(agent: Server, admin_stand_in: AdminStandIn) -> None:
    told = agent.told("report_not_taken")
    assert told["request_id"] in [heard.headers["x-request-id"] for heard in admin_stand_in.heard]


def test_an_id_of_128_characters_is_taken_and_none_that_is_longer() -> None:
    longest = b"a" * 128
    assert identify(longest) == longest
    assert identify(longest + b"a") != longest + b"a"
    assert identify(None) != identify(None)
    assert identify(b"line\r\nend") != b"line\r\nend"


FORKING = """
import os
from athena.observability.identity import identify
identify(None)  # more are made with the first
child = os.fork()
for _ in range(20):
    os.write(1, identify(None) + b" ")
if child:
    os.waitpid(child, 0)
"""


def test_workers_that_are_forked_give_out_ids_of_their_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKING], check=True, capture_output=True)
    assert len(set(done.stdout.split())) == 40


def test_no_id_is_given_out_twice() -> None:
    ids = [identify(None) for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert all(re.fullmatch(b"[0-9a-f]{16}", one) for one in ids)
