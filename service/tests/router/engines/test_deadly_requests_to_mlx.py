"""What ends the generation thread of a real `mlx_lm.server`, and that no call gets through to it that does.

The first half holds the facts against the pinned version: where a request no longer does harm, the refusal may go.
"""

import json
from typing import Any

import httpx
import pytest

from athena.router.call import Call
from athena.router.dialects import codec
from athena.router.engines import ENGINES
from athena.router.errors import BackendError, FailureKind, RequestRejectedError
from athena.router.types import Backend, BackendType, Dialect, Finish, Operation
from tests.engines.server import EngineServer

MLX = ENGINES[BackendType.MLX]
PROMPT = {"model": "default_model", "prompt": "Once", "max_tokens": 4, "stream": True}
DEADLY: dict[str, dict[str, Any]] = {
    "an empty prompt": {"prompt": ""},
    "a list of prompts": {"prompt": ["Once", "Twice"]},
    "a top_k beyond the vocabulary": {"top_k": 100_000, "temperature": 1},
    "a bias for a token beyond the vocabulary": {"logit_bias": {"99999999": 1}},
    "a stop that is no text": {"stop": [1]},
}
HARMLESS: dict[str, dict[str, Any]] = {
    "no top_k": {"top_k": -1},
    "as large a top_k as is passed on": {"top_k": 256, "temperature": 1},
    "no seed": {"seed": -1},
    "a negative seed": {"seed": -(2**63)},
    "a large seed": {"seed": 2**63 - 1},
    "an empty stop": {"stop": [""]},
    "a high temperature": {"temperature": 100},
    "no bias": {"logit_bias": {}},
    "nulls": {"temperature": None, "max_tokens": None, "top_p": None, "stop": None},
    "a whole number for a share": {"top_p": 1, "min_p": 0},
    "unbounded length": {"max_tokens": 2**31 - 1, "stop": list("abcdefghijklmnopqrstuvwxyz ")},
}


def backend(server: EngineServer) -> Backend:
    return Backend(model_name="m", backend_type=BackendType.MLX, endpoint_url=server.url, max_tokens=4)


def ask(server: EngineServer, path: str, body: bytes) -> httpx.Response:
    return httpx.post(server.url + path, content=body, headers={"content-type": "application/json"}, timeout=30)


def asked(fields: dict[str, Any]) -> Call:
    return Call(Dialect.OPENAI, Operation.GENERATE, json.dumps({"model": "m", "prompt": "Once", **fields}).encode())


@pytest.mark.engine
@pytest.mark.parametrize("name", DEADLY)
def test_a_deadly_request_ends_the_server_until_it_is_restarted(mlx_server: EngineServer, name: str) -> None:
    try:
        try:
            reply = ask(mlx_server, "/v1/completions", json.dumps(PROMPT | DEADLY[name]).encode())
        except httpx.HTTPError:
            pass
        else:
            assert "[DONE]" not in reply.text
        with pytest.raises(OSError, match="completions"):
            mlx_server.ask("Anybody there?")
    finally:
        mlx_server.restart()


@pytest.mark.parametrize("name", DEADLY)
def test_a_deadly_request_is_not_sent(name: str) -> None:
    with pytest.raises((BackendError, RequestRejectedError)) as refusal:
        MLX.render(
            asked(DEADLY[name]), Backend(model_name="m", backend_type=BackendType.MLX, endpoint_url="http://x.example")
        )
    if isinstance(refusal.value, BackendError):
        assert refusal.value.kind is FailureKind.UNSUITABLE


@pytest.mark.engine
@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_request_is_served(mlx_server: EngineServer, name: str) -> None:
    rendered = MLX.render(asked(HARMLESS[name]), backend(mlx_server))
    reply = ask(mlx_server, rendered.path, rendered.body)
    events = codec(Dialect.OPENAI).reader(Operation.GENERATE).feed(reply.content)
    assert isinstance(events[-1], Finish)
    assert events[-1].usage.prompt_tokens > 0
    mlx_server.ask("Still there?")


@pytest.mark.engine
@pytest.mark.parametrize("think", [True, False])
def test_a_template_is_told_whether_to_think(mlx_server: EngineServer, think: bool) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "think": think}
    rendered = MLX.render(Call(Dialect.OLLAMA, Operation.CHAT, json.dumps(body).encode()), backend(mlx_server))
    assert json.loads(rendered.body)["chat_template_kwargs"] == {"enable_thinking": think}
    assert "[DONE]" in ask(mlx_server, rendered.path, rendered.body).text


@pytest.mark.engine
@pytest.mark.parametrize(
    "fields", [{"temperature": None}, {"max_tokens": None}, {"model": None}, {"top_k": -1}, {"stream": None}]
)
def test_the_server_refuses_nulls_and_what_lies_out_of_its_range(
    mlx_server: EngineServer, fields: dict[str, Any]
) -> None:
    reply = ask(mlx_server, "/v1/completions", json.dumps(PROMPT | fields).encode())
    error = MLX.failure(reply.status_code, reply.content)
    assert reply.status_code == 400
    assert error is not None
    assert error.kind is FailureKind.REJECTED
    assert next(iter(fields)) in error.detail


@pytest.mark.engine
def test_every_failure_to_start_is_404_and_lets_the_next_backend_try(mlx_server: EngineServer) -> None:
    turn = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
    for path, body in (
        ("/v1/chat/completions", {**PROMPT, "messages": []}),
        ("/v1/chat/completions", {**PROMPT, "messages": [turn]}),
        ("/v1/nothing", PROMPT),
    ):
        reply = ask(mlx_server, path, json.dumps(body).encode())
        error = MLX.failure(reply.status_code, reply.content)
        assert error is not None
        assert (reply.status_code, error.kind) == (404, FailureKind.STATUS)
        assert error.lets_next_backend_try


@pytest.mark.engine
def test_the_default_model_is_the_one_that_was_loaded(mlx_server: EngineServer) -> None:
    reply = ask(mlx_server, "/v1/completions", json.dumps(PROMPT | {"stream": False}).encode())
    assert reply.json()["usage"]["completion_tokens"] > 0
    assert reply.json()["model"] == "default_model"


@pytest.mark.engine
def test_stream_options_without_usage_kill_a_stream_before_its_end_mark(mlx_server: EngineServer) -> None:
    reply = ask(mlx_server, "/v1/completions", json.dumps(PROMPT | {"stream_options": {}}).encode())
    assert reply.status_code == 200
    reader = codec(Dialect.OPENAI).reader(Operation.GENERATE)
    assert not any(isinstance(event, Finish) for event in reader.feed(reply.content))
    with pytest.raises(BackendError, match="without"):
        reader.end()
