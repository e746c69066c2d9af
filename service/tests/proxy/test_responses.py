"""OpenAI's Responses API by the official client, with every engine type behind it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import FunctionToolParam, ResponseInputParam
from pydantic import BaseModel

from tests.proxy.conftest import Run, StartProxy
from tests.proxy.engines import OLLAMA_END, REPLY, ollama_engine, ollama_line, openai_chunk, sse
from tests.proxy.standin import Handler, Heard, backend

TEXT = "".join(REPLY)
MODELS = ["m-openai", "m-mlx", "m-ollama"]
PATH = "/v1/responses"
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}


@contextmanager
def client_of(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", MODELS)
def test_every_engine_gives_a_whole_response(proxy: str, model: str) -> None:
    with client_of(proxy) as client:
        response = client.responses.create(
            model=model, input="Good morning", instructions="Be kind", metadata={"a": "b"}
        )
    assert response.output_text == TEXT
    assert (response.status, response.model, response.metadata) == ("completed", model, {"a": "b"})
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (7, 5)


@pytest.mark.parametrize("model", MODELS)
def test_every_engine_streams_a_response(proxy: str, model: str) -> None:
    with client_of(proxy) as client, client.responses.stream(model=model, input="Good morning") as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert response.output_text == TEXT
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert pieces == list(REPLY)


@pytest.mark.parametrize("model", MODELS)
async def test_the_asynchronous_client_does_the_same(proxy: str, model: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{proxy}/v1", api_key="unused", max_retries=0) as client:
        stream = await client.responses.create(model=model, input="Good morning", stream=True)
        events = [event async for event in stream]
    assert events[-1].type == "response.completed"


async def _openai_calls(heard: Heard) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}
    await heard.start("text/event-stream")
    await heard.chunk(sse(openai_chunk(heard, {"role": "assistant", "reasoning_content": "A tool helps."})))
    await heard.chunk(sse(openai_chunk(heard, {"tool_calls": [call]})))
    await heard.chunk(sse(openai_chunk(heard, {}, "tool_calls")))
    await heard.chunk(b"data: [DONE]\n\n")
    await heard.end()


async def _ollama_calls(heard: Heard) -> None:
    said = {"role": "assistant", "content": "", "thinking": "A tool helps."}
    call = {"function": {"name": "weather", "arguments": {"city": "Bern"}}}
    await heard.start("application/x-ndjson")
    await heard.chunk(ollama_line(heard, "", message=said))
    await heard.chunk(ollama_line(heard, "", message={"role": "assistant", "content": "", "tool_calls": [call]}))
    await heard.chunk(ollama_line(heard, "", **OLLAMA_END))
    await heard.end()


@pytest.mark.parametrize(
    ("engine", "behaviour"), [("openai", _openai_calls), ("mlx", _openai_calls), ("ollama", _ollama_calls)]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_and_its_answer_sent_back(
    stand_in: Run, proxy_for: StartProxy, engine: str, behaviour: Handler, streamed: bool
) -> None:
    upstream = stand_in(behaviour)
    conversation: ResponseInputParam = [{"role": "user", "content": "Weather?"}]
    with client_of(proxy_for(backend("m", engine, upstream.url))) as client:
        if streamed:
            with client.responses.stream(model="m", input=conversation, tools=[WEATHER]) as stream:
                response: Any = stream.get_final_response()
        else:
            response = client.responses.create(model="m", input=conversation, tools=[WEATHER])
        thought, call = response.output
        assert thought.content[0].text == "A tool helps."
        assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"city": "Bern"})
        # What was given is sent back as it is, with the tool's answer.
        conversation += response.output
        conversation.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
        client.responses.create(model="m", input=conversation, tools=[WEATHER])
    _, turn, answer = upstream.heard[-1].json["messages"]
    assert turn["tool_calls"][0]["function"]["name"] == "weather"
    assert turn["tool_calls"][0]["id"] == answer["tool_call_id"] == call.call_id
    assert turn.get("thinking", turn.get("reasoning_content")) == "A tool helps."
    assert answer["content"] == "rain"


class Sky(BaseModel):
    """What a caller wants to be told."""

    sky: str


async def _ollama_keeps_to_the_form(heard: Heard) -> None:
    assert heard.json["format"]["required"] == ["sky"]
    await heard.start("application/x-ndjson")
    await heard.chunk(ollama_line(heard, '{"sky": "blue"}'))
    await heard.chunk(ollama_line(heard, "", **OLLAMA_END))
    await heard.end()


def test_a_wanted_form_is_parsed_by_the_client(stand_in: Run, proxy_for: StartProxy) -> None:
    url = proxy_for(backend("m", "ollama", stand_in(_ollama_keeps_to_the_form).url))
    with client_of(url) as client:
        response = client.responses.parse(model="m", input="Sky?", text_format=Sky)
    assert response.output_parsed == Sky(sky="blue")


@pytest.mark.parametrize(
    ("model", "fields", "field", "status"),
    [
        ("m-ollama", {"store": True}, "store", 400),
        ("m-openai", {"previous_response_id": "resp_1"}, "previous_response_id", 400),
        ("m-mlx", {"background": True}, "background", 400),
        ("m-openai", {"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type", 400),
        ("m-mlx", {"text": {"format": {"type": "json_object"}}}, "text.format", 422),
        ("m-ollama", {"tools": [{"type": "web_search"}]}, "tools.0.type", 422),
        ("m-openai", {"truncation": "auto"}, "truncation", 422),
    ],
)
def test_what_nobody_can_serve_is_a_400_and_what_no_backend_of_the_model_can_a_422(
    proxy: str, model: str, fields: dict[str, Any], field: str, status: int
) -> None:
    with client_of(proxy) as client, pytest.raises(openai.APIStatusError) as refusal:
        client.post(PATH.removeprefix("/v1"), body={"model": model, "input": "Hi", **fields}, cast_to=object)
    assert (refusal.value.status_code, refusal.value.param) == (status, field)


@pytest.mark.parametrize(("model", "field"), [("m-mlx", "response_format"), ("m-ollama", "messages.0.audio")])
def test_so_it_is_with_a_chat(http: httpx.Client, model: str, field: str) -> None:
    message = {"role": "assistant", "content": "Hi", "audio": {"id": "a"}}
    body = {"model": model, "messages": [message], "response_format": {"type": "json_object"}}
    error = http.post("/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == field


async def _breaks(heard: Heard) -> None:
    await heard.start("text/event-stream")
    await heard.chunk(sse(openai_chunk(heard, "one ")))
    await heard.chunk(b'data: {"id": "x-1", "cho')
    heard.close()


def test_a_broken_stream_ends_in_an_error_event_and_never_looks_whole(stand_in: Run, proxy_for: StartProxy) -> None:
    url = proxy_for(backend("m", "openai", stand_in(_breaks).url))
    lines: list[str] = []
    with (
        httpx.stream("POST", url + PATH, json={"model": "m", "input": "Hi", "stream": True}) as reply,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        lines.extend(reply.iter_lines())
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert events[-1]["type"] == "error"
    assert events[-1]["code"] == "stream_broken"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert "response.completed" not in {event["type"] for event in events}
    with client_of(url) as client, pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
        list(client.responses.create(model="m", input="Hi", stream=True))


def test_a_failure_before_the_first_token_moves_to_the_next_backend(stand_in: Run, proxy_for: StartProxy) -> None:
    async def opens_and_dies(heard: Heard) -> None:
        await heard.start("text/event-stream")
        heard.reset()

    url = proxy_for(
        backend("m", "openai", stand_in(opens_and_dies).url, priority=0),
        backend("m", "ollama", stand_in(ollama_engine).url, priority=1),
    )
    reply = httpx.post(url + PATH, json={"model": "m", "input": "Hi", "stream": True})
    assert reply.headers["x-athena-backend"] == "ollama"
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert "event: response.completed" in reply.text


def test_a_stream_that_stalls_is_ended(stand_in: Run, proxy_for: StartProxy) -> None:
    async def stalls(heard: Heard) -> None:
        await heard.start("text/event-stream")
        await heard.chunk(sse(openai_chunk(heard, "one ")))
        await heard.wait_until_left()

    url = proxy_for(backend("m", "openai", stand_in(stalls).url, stall_seconds=1))
    with (
        httpx.stream("POST", url + PATH, json={"model": "m", "input": "Hi", "stream": True}) as reply,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        reply.read()
