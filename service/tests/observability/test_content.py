"""Prompts and answers in the logs: in none, unless a setting asks for them, and then redacted."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from athena.router.dialects import codec
from athena.router.told_reply import text_of_stream, text_of_whole
from athena.router.types import Delta, Dialect, Finish, Operation, Usage
from tests.observability.installation import BROKEN, Installation, installation
from tests.support.caller import OLLAMA_CHAT, OLLAMA_TEXT, OPENAI_CHAT, OPENAI_TEXT, PATHS
from tests.support.ports import quiet_port
from tests.support.processes import Server, serving
from tests.support.registry import TOKEN

MARK = "Xyzzy-the-marked-prompt"
MODELS = ("small", "m-openai", BROKEN)


def question(path: str, model: str, text: str, **more: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
    return {"model": model, **asked, **more}


def flood(server: Server, mark: str) -> set[int]:
    """Say the mark to a service in every way in which a caller may; returns the statuses that were answered."""
    statuses = set()
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for path in PATHS:
            for model in MODELS:
                for stream in (False, True):
                    asked = question(path, model, mark, stream=stream)
                    statuses.add(client.post(path, json=asked).status_code)
            statuses.add(client.post(path, json=question(path, "small", mark, temperature=mark)).status_code)
            statuses.add(client.post(path, content=f'{{"model": "small", "prompt": "{mark}'.encode()).status_code)
            statuses.add(client.post(path, content=mark.encode()).status_code)
            statuses.add(client.post(path, json={"model": "small", "messages": mark, "prompt": [mark]}).status_code)
        for asked in ({"query": mark}, {"query": mark, "mode": mark}, {"query": [mark]}, {mark: mark}):
            statuses.add(client.post("/query", json=asked).status_code)
        conversation = {"query": mark, "mode": "owner", "conversation_id": "a"}
        for _ in range(2):
            statuses.add(client.post("/query", json=conversation).status_code)
        for path in ("/api/llm-backends", "/api/llm-backends/figures", "/api/hosts/a"):
            for method in ("POST", "PUT"):
                headers = {"Authorization": f"Bearer {TOKEN}"}
                statuses.add(client.request(method, path, json={"prompt": mark}, headers=headers).status_code)
        statuses.add(client.post("/status", json={"prompt": mark}).status_code)
    return statuses


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("silent"), REDIS_URL=f"redis://127.0.0.1:{quiet_port()}") as installed:
        yield installed


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("telling"), ATHENA_LOG_CONTENT="redacted") as installed:
        yield installed


def test_no_line_of_proxy_and_orchestrator_has_a_word_of_a_prompt(silent: Installation) -> None:
    for server in (silent.proxy, silent.orchestrator):
        statuses = flood(server, MARK)
        assert 200 in statuses
        assert statuses & {400, 422}
        time.sleep(0.3)  # a line is written a tenth of a second later at most
        lines = server.lines()
        assert any(line["event"] == "llm_request_completed" for line in lines)
        assert MARK not in str(lines)
        assert "Hello there" not in str(lines)
    assert any(line["event"] == "llm_request_failed" for line in silent.proxy.lines())
    assert any(line["event"] == "redis_failed_using_memory" for line in silent.orchestrator.lines())


def test_no_line_of_admin_api_and_agent_has_a_word_of_a_prompt(tmp_path: Path, database_url: str) -> None:
    config = tmp_path / "agent.json"
    engine = {"name": "e", "kind": "mlx", "url": f"http://127.0.0.1:{quiet_port()}", "model": "m"}
    config.write_text(json.dumps({"host": "a", "engines": [engine]}))
    debug = {"LOG_LEVEL": "debug", "ADMIN_API_TOKEN": TOKEN}
    with (
        serving("admin", tmp_path / "admin.log", DATABASE_URL=database_url, **debug) as admin,
        serving("agent", tmp_path / "agent.log", AGENT_CONFIG=str(config), ADMIN_API_URL=admin.url, **debug) as agent,
    ):
        for server in (admin, agent):
            assert flood(server, MARK) & {404, 405, 422}
            time.sleep(0.3)
            assert server.lines()
            assert MARK not in str(server.lines())


def told(server: Server, event: str, request_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 5
    while True:
        for line in server.events(event):
            if line["request_id"] == request_id:
                return line
        assert time.monotonic() < deadline, server.lines()
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["small", "m-openai"])
@pytest.mark.parametrize("path", [OPENAI_CHAT, OPENAI_TEXT, OLLAMA_CHAT, OLLAMA_TEXT])
def test_where_a_setting_asks_prompt_and_answer_are_told_redacted(
    telling: Installation, path: str, model: str, stream: bool
) -> None:
    request_id = f"{path.replace('/', '.')}:{model}:{stream}"
    text = "Write to alice@mail.example, my password is hunter2."
    asked = question(path, model, text, stream=stream)
    answer = httpx.post(telling.proxy.url + path, json=asked, headers={"x-request-id": request_id})
    assert answer.status_code == 200
    prompt = told(telling.proxy, "llm_prompt", request_id)
    assert prompt["prompt"] == "Write to [e-mail], my password is [token]"
    assert prompt["model"] == model
    said = told(telling.proxy, "llm_answer", request_id)
    assert (said["answer"], said["whole"]) == ("Hello there, caller.", True)
    assert "alice" not in str(telling.proxy.lines())


@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_to_a_caller_of_openais_responses_is_told_as_well(telling: Installation, stream: bool) -> None:
    request_id = f"responses-{stream}"
    asked = {"model": "m-openai", "input": "I am alice@mail.example", "stream": stream, "store": False}
    url = telling.proxy.url + "/v1/responses"
    httpx.post(url, json=asked, headers={"x-request-id": request_id}).raise_for_status()
    assert told(telling.proxy, "llm_prompt", request_id)["prompt"] == "I am [e-mail]"
    said = told(telling.proxy, "llm_answer", request_id)
    assert (said["answer"], said["whole"]) == ("Hello there, caller.", True)


def test_the_words_of_an_engine_that_failed_are_told_redacted(telling: Installation) -> None:
    asked = question(OPENAI_CHAT, BROKEN, "I am alice@mail.example")
    httpx.post(telling.proxy.url + OPENAI_CHAT, json=asked, headers={"x-request-id": "fails"})
    assert told(telling.proxy, "llm_request_failed", "fails")["error"].startswith("status 500: cannot take")
    assert "alice@" not in str(telling.proxy.lines())


def test_the_orchestrator_tells_its_steps(telling: Installation) -> None:
    url = telling.orchestrator.url + "/query"
    httpx.post(
        url, json={"query": "Is it warm?", "mode": "owner"}, headers={"x-request-id": "steps"}
    ).raise_for_status()
    told(telling.orchestrator, "llm_answer", "steps")
    prompts = [line for line in telling.orchestrator.events("llm_prompt") if line["request_id"] == "steps"]
    assert [line["model"] for line in prompts] == ["small", "large"]
    assert prompts[1]["prompt"] == "Is it warm?"


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.OLLAMA])  # those of engines
@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.GENERATE])
def test_the_text_of_a_reply_is_that_of_its_events(dialect: Dialect, operation: Operation) -> None:
    first, second = Delta(text="It is "), Delta(text="warm.")
    end = Finish(reason="stop", usage=Usage(completion_tokens=2))
    encoder = codec(dialect).encoder(operation, "m")
    assert text_of_whole(encoder.whole([first, second, end])) == "It is warm."
    stream = encoder.start() + encoder.delta(first) + encoder.delta(second) + encoder.finish(end)
    assert text_of_stream(dialect, operation, stream) == "It is warm."
    assert "It is warm.".startswith(text_of_stream(dialect, operation, stream[: len(stream) // 2]))
    assert text_of_stream(dialect, operation, b"data: [\n\n" + stream) == ""


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"1", b"{}", b'{"choices": []}', b'{"message": 1}', b"\xff", b'{"choices": {}}']
)
def test_a_body_without_text_has_none(body: bytes) -> None:
    assert text_of_whole(body) == ""
