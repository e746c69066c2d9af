"""The official clients against the proxy with real engines behind: Ollama, MLX, and Ollama's OpenAI side."""

import json
import os
import subprocess
import time
from typing import Any

import httpx
import ollama
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.engines.fixtures import ollama_binary
from tests.engines.server import EngineServer
from tests.proxy.conftest import Served, StartProxy
from tests.proxy.standin import backend

pytestmark = pytest.mark.engine

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Why is the sky blue?"}]
PROMPT = "Once upon a time"


def test_the_openai_client_gets_whole_replies_and_streams(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        whole = client.chat.completions.create(model=served.model, messages=MESSAGES, max_tokens=8)
        assert whole.usage is not None
        assert 1 <= whole.usage.completion_tokens <= 8
        chunks = list(
            client.chat.completions.create(
                model=served.model,
                messages=MESSAGES,
                max_tokens=8,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in {"stop", "length"}
        assert chunks[-1].usage is not None
        assert 1 <= chunks[-1].usage.completion_tokens <= 8
        completion = client.completions.create(model=served.model, prompt=PROMPT, max_tokens=8)
        assert completion.choices[0].finish_reason in {"stop", "length"}
        pieces = list(client.completions.create(model=served.model, prompt=PROMPT, max_tokens=8, stream=True))
        assert pieces[-1].object == "text_completion"


async def test_the_asynchronous_clients_do_the_same(served: Served) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        stream = await client.chat.completions.create(model=served.model, messages=MESSAGES, max_tokens=4, stream=True)
        assert [chunk async for chunk in stream][-1].object == "chat.completion.chunk"
    local = ollama.AsyncClient(host=served.url)
    parts = await local.chat(
        model=served.model, messages=MESSAGES, options={"num_predict": 4, "temperature": 0}, stream=True
    )
    assert [part.done async for part in parts][-1]
    await local._client.aclose()


def test_the_openai_client_gets_responses_and_streams_of_them(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        asked: dict[str, Any] = {"model": served.model, "input": "Why is the sky blue?", "max_output_tokens": 8}
        whole = client.responses.create(**asked)
        assert whole.status in {"completed", "incomplete"}
        assert whole.usage is not None
        assert 1 <= whole.usage.output_tokens <= 8
        assert whole.output
        with client.responses.stream(**asked) as stream:
            events = list(stream)
        assert events[0].type == "response.created"
        assert events[-1].type in {"response.completed", "response.incomplete"}
        assert [event.sequence_number for event in events] == list(range(len(events)))
        again = [{"role": "user", "content": "Hi"}, *whole.output, {"role": "user", "content": "Go on"}]
        assert client.responses.create(**asked | {"input": again}).output


def test_a_wanted_form_is_kept_to_or_refused_by_name(served: Served) -> None:
    schema = {"type": "object", "properties": {"sky": {"enum": ["blue"]}}, "required": ["sky"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "sky", "schema": schema}}
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        asked: dict[str, Any] = {"model": served.model, "messages": MESSAGES, "max_tokens": 60, "temperature": 0}
        if served.kind == "mlx":
            with pytest.raises(openai.UnprocessableEntityError) as refusal:
                client.chat.completions.create(**asked, response_format=form)
            assert refusal.value.param == "response_format"
        else:
            reply = client.chat.completions.create(**asked, response_format=form)
            text = reply.choices[0].message.content or ""
            assert text.lstrip().startswith("{")
            if reply.choices[0].finish_reason == "stop":
                assert json.loads(text) == {"sky": "blue"}


def test_a_tool_is_offered_or_its_lack_is_told(served: Served) -> None:
    """The tiny model of Ollama has no template for tools; that of MLX takes them."""
    tool: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        asked: dict[str, Any] = {"model": served.model, "input": "Weather?", "max_output_tokens": 8, "tools": [tool]}
        if served.kind == "mlx":
            assert client.responses.create(**asked).output
        else:
            with pytest.raises(openai.UnprocessableEntityError, match="tools"):
                client.responses.create(**asked)


@pytest.mark.parametrize("served", ["mlx"], indirect=True)
def test_an_image_is_refused_by_name_where_the_model_would_not_see_it(served: Served) -> None:
    image = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": image}}]
    body = {"model": served.model, "messages": [{"role": "user", "content": parts}]}
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, "messages.0.content")


def test_embeddings_are_made_or_refused_by_name(served: Served) -> None:
    local = ollama.Client(host=served.url)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        if served.kind == "mlx":
            with pytest.raises(openai.UnprocessableEntityError, match="makes no embeddings"):
                client.embeddings.create(model=served.model, input="Once")
            with pytest.raises(ollama.ResponseError, match="makes no embeddings"):
                local.embed(model=served.model, input="Once")
        else:
            reply = client.embeddings.create(model=served.model, input=["Once", "Twice"])
            both = local.embed(model=served.model, input=["Once", "Twice"])
            assert [vector.index for vector in reply.data] == [0, 1]
            for vector, other in zip(reply.data, both.embeddings, strict=True):
                assert vector.embedding == pytest.approx(other, abs=1e-4)
            assert reply.usage.prompt_tokens > 0
            assert local.embeddings(model=served.model, prompt="Once").embedding
    local._client.close()


def test_the_ollama_client_gets_whole_replies_and_streams(served: Served) -> None:
    client = ollama.Client(host=served.url)
    # The same noise every time: of U+0085, which a random model may well write and Ollama does not escape, the client
    # makes the end of a line.
    options = {"num_predict": 8, "temperature": 0, "seed": 1}
    chat = client.chat(model=served.model, messages=MESSAGES, options=options)
    assert chat.done
    assert chat.eval_count is not None
    assert 1 <= chat.eval_count <= 8
    assert chat.prompt_eval_count
    generated = client.generate(model=served.model, prompt=PROMPT, options=options)
    assert generated.done_reason in {"stop", "length"}
    for parts in (
        list(client.chat(model=served.model, messages=MESSAGES, options=options, stream=True)),
        list(client.generate(model=served.model, prompt=PROMPT, options=options, stream=True)),
    ):
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
        assert parts[-1].eval_count is not None
        assert 1 <= parts[-1].eval_count <= 8
    client._client.close()


def test_the_ollama_client_learns_how_long_the_reply_took(served: Served) -> None:
    began = time.perf_counter()
    reply = httpx.post(
        f"{served.url}/api/chat",
        json={"model": served.model, "messages": MESSAGES, "stream": False, "options": {"num_predict": 32}},
        timeout=60,
    ).json()
    elapsed = time.perf_counter() - began
    assert elapsed / 50 < reply["total_duration"] / 1e9 <= elapsed  # the rest is the client starting up
    assert 0 < reply["eval_duration"] <= reply["total_duration"]


def test_the_models_are_listed_for_both_clients(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [served.model]
        assert client.models.retrieve(served.model).id == served.model
    local = ollama.Client(host=served.url)
    assert [model.model for model in local.list().models] == [served.model]
    local._client.close()


def test_what_is_loaded_and_what_a_model_is_made_of_is_told_the_ollama_client(served: Served) -> None:
    client = ollama.Client(host=served.url)
    client.generate(model=served.model, prompt=PROMPT, options={"num_predict": 1})
    time.sleep(1.1)  # it may have been asked a moment ago
    loaded = client.ps().models
    shown = client.show(served.model)
    client._client.close()
    assert shown.capabilities is not None
    assert "completion" in shown.capabilities
    if served.kind == "ollama":
        assert [model.model for model in loaded] == [served.model]
        assert loaded[0].size
        assert shown.modelinfo
        assert shown.modelinfo["llama.context_length"]


@pytest.mark.parametrize("kind", ["ollama", "mlx", "openai"])
def test_ollamas_own_command_runs_shows_and_stops_a_model_of_every_engine(
    kind: str, request: pytest.FixtureRequest, proxy_for: StartProxy
) -> None:
    engine: EngineServer = request.getfixturevalue("mlx_server" if kind == "mlx" else "ollama_server")
    name = "m" if kind == "mlx" else engine.model
    row = backend(name, kind, engine.url, timeout_seconds=60, max_tokens=4, capabilities={"context_tokens": 900})
    environment = {**os.environ, "OLLAMA_HOST": proxy_for(row)}

    def command(*words: str) -> str:
        ran = subprocess.run(
            [ollama_binary(), *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout
        return ran.stdout

    command("run", name, "Why is the sky blue?")
    assert "context length" in command("show", name)
    assert name in command("list")
    command("stop", name)


def test_the_proxy_says_what_the_engine_says(served: Served) -> None:
    """With the sampling at temperature 0 both ways, the texts are one."""
    body = {"model": served.model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, "seed": 1}
    if served.kind == "ollama":
        body = {
            "model": served.model,
            "prompt": PROMPT,
            "stream": False,
            "options": {"num_predict": 8, "temperature": 0},
        }
    path = "/api/generate" if served.kind == "ollama" else "/v1/completions"
    direct = httpx.post(served.engine.url + path, json=body, timeout=60)
    through = httpx.post(served.url + path, json=body, timeout=60)
    assert through.headers["x-athena-backend"] == served.kind

    def text(reply: httpx.Response) -> str:
        value = reply.json()
        return str(value["response"] if served.kind == "ollama" else value["choices"][0]["text"])

    assert text(through) == text(direct)
    assert through.json().keys() <= direct.json().keys()


def test_a_killed_engine_is_a_clear_503_and_not_a_hang(served: Served) -> None:
    served.engine.kill()
    try:
        for path, body in (
            ("/v1/chat/completions", {"model": served.model, "messages": MESSAGES, "stream": True}),
            ("/api/generate", {"model": served.model, "prompt": PROMPT}),
        ):
            reply = httpx.post(served.url + path, json=body, timeout=5)
            assert reply.status_code == 503
            assert int(reply.headers["retry-after"]) >= 1
            assert "refused" in reply.text
    finally:
        served.engine.restart()
