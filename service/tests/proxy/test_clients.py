"""The official clients, unchanged, against the proxy with every engine type behind it."""

import datetime as dt
import json

import httpx
import ollama
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.proxy.conftest import Run, StartProxy
from tests.proxy.engines import OLLAMA_END, REPLY, ollama_engine, ollama_line, openai_chunk, openai_engine, sse
from tests.proxy.standin import Heard, backend

TEXT = "".join(REPLY)
MODELS = ["m-openai", "m-mlx", "m-ollama"]
CONVERSATION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Good morning"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture
def openai_client(proxy: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy}/v1", api_key="unused", max_retries=0)


@pytest.mark.parametrize("model", MODELS)
def test_the_openai_client_chats_with_every_engine(openai_client: openai.OpenAI, model: str) -> None:
    with openai_client:
        reply = openai_client.chat.completions.create(model=model, messages=CONVERSATION)
        assert reply.choices[0].message.content == TEXT
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 5
        assert reply.model == model


@pytest.mark.parametrize("model", MODELS)
def test_the_openai_client_streams_a_chat_from_every_engine(openai_client: openai.OpenAI, model: str) -> None:
    with openai_client:
        chunks = list(
            openai_client.chat.completions.create(
                model=model, messages=CONVERSATION, stream=True, stream_options={"include_usage": True}
            )
        )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 12


@pytest.mark.parametrize("model", MODELS)
def test_the_openai_client_completes_a_prompt_with_every_engine(openai_client: openai.OpenAI, model: str) -> None:
    with openai_client:
        whole = openai_client.completions.create(model=model, prompt="Once")
        pieces = openai_client.completions.create(model=model, prompt="Once", stream=True)
        assert whole.choices[0].text == TEXT
        assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == TEXT


@pytest.mark.parametrize("model", MODELS)
async def test_the_asynchronous_openai_client_does_the_same(proxy: str, model: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{proxy}/v1", api_key="unused", max_retries=0) as client:
        whole = await client.chat.completions.create(model=model, messages=CONVERSATION)
        assert whole.choices[0].message.content == TEXT
        stream = await client.chat.completions.create(model=model, messages=CONVERSATION, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]) == TEXT


@pytest.mark.parametrize("model", MODELS)
def test_the_ollama_client_talks_to_every_engine(proxy: str, model: str) -> None:
    client = ollama.Client(host=proxy)
    chat = client.chat(model=model, messages=[{"role": "user", "content": "Good morning"}])
    assert chat.message.content == TEXT
    assert chat.done
    assert chat.done_reason == "stop"
    assert chat.eval_count == 5
    assert chat.model == model
    generated = client.generate(model=model, prompt="Once")
    assert generated.response == TEXT
    assert generated.prompt_eval_count == 7
    client._client.close()


@pytest.mark.parametrize("model", MODELS)
def test_the_ollama_client_streams_from_every_engine(proxy: str, model: str) -> None:
    client = ollama.Client(host=proxy)
    chat = list(client.chat(model=model, messages=[{"role": "user", "content": "Good morning"}], stream=True))
    assert "".join(part.message.content or "" for part in chat) == TEXT
    assert [part.done for part in chat] == [False] * (len(chat) - 1) + [True]
    assert chat[-1].eval_count == 5
    generated = list(client.generate(model=model, prompt="Once", stream=True))
    assert "".join(part.response or "" for part in generated) == TEXT
    assert generated[-1].done
    client._client.close()


@pytest.mark.parametrize("model", MODELS)
async def test_the_asynchronous_ollama_client_does_the_same(proxy: str, model: str) -> None:
    client = ollama.AsyncClient(host=proxy)
    whole = await client.chat(model=model, messages=[{"role": "user", "content": "Good morning"}])
    assert whole.message.content == TEXT
    stream = await client.generate(model=model, prompt="Once", stream=True)
    assert "".join([part.response or "" async for part in stream]) == TEXT
    await client._client.aclose()


def test_the_clients_list_the_models_of_the_registry_and_of_the_default_ollama(
    proxy: str, openai_client: openai.OpenAI
) -> None:
    with openai_client:
        names = [model.id for model in openai_client.models.list()]
        assert sorted(names) == ["m-mlx", "m-ollama", "m-openai", "org/name:8b", "tiny:latest"]
        assert openai_client.models.retrieve("org/name:8b").id == "org/name:8b"
        with pytest.raises(openai.NotFoundError, match="neither registered nor"):
            openai_client.models.retrieve("missing")
    client = ollama.Client(host=proxy)
    models = {model.model: model for model in client.list().models}
    assert sorted(str(name) for name in models) == sorted(names)
    tiny = models["tiny:latest"]
    assert tiny.details is not None
    assert tiny.details.family == "llama"
    assert tiny.modified_at is not None
    assert tiny.modified_at.date() == dt.date(2026, 1, 2)
    client._client.close()


def test_a_model_that_only_the_default_ollama_has_is_served(proxy: str) -> None:
    client = ollama.Client(host=proxy)
    assert client.generate(model="tiny:latest", prompt="Once").response == TEXT
    client._client.close()


async def _calls_a_tool(heard: Heard) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}
    await heard.start("text/event-stream")
    await heard.chunk(sse(openai_chunk(heard, {"role": "assistant", "tool_calls": [call]})))
    await heard.chunk(sse(openai_chunk(heard, {}, "tool_calls")))
    await heard.chunk(b"data: [DONE]\n\n")
    await heard.end()


def test_a_tool_call_has_the_shape_that_each_client_expects(stand_in: Run, proxy_for: StartProxy) -> None:
    url = proxy_for(backend("m", "openai", stand_in(_calls_a_tool).url))
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        stream = client.chat.completions.create(model="m", messages=CONVERSATION, tools=[WEATHER], stream=True)
        calls = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or []]
    assert calls[0].function is not None
    assert calls[0].function.arguments == '{"city":"Bern"}'
    local = ollama.Client(host=url)
    reply = local.chat(model="m", messages=[{"role": "user", "content": "Weather?"}], tools=[dict(WEATHER)])
    assert reply.message.tool_calls is not None
    assert reply.message.tool_calls[0].function.arguments == {"city": "Bern"}
    local._client.close()


_CITIES = ("Bern", "Oslo", "Rome")


async def _calls_three_tools(heard: Heard) -> None:
    """Call a tool three times at once, the way either API does."""
    if heard.path == "/api/chat":
        calls = [{"function": {"name": "weather", "arguments": {"city": city}}} for city in _CITIES]
        await heard.start("application/x-ndjson")
        for some in (calls[:2], calls[2:]):
            message = {"role": "assistant", "content": "", "tool_calls": some}
            await heard.chunk(ollama_line(heard, "", message=message))
        await heard.chunk(ollama_line(heard, "", **OLLAMA_END))
    else:
        await heard.start("text/event-stream")
        for index, city in enumerate(_CITIES):
            function = {"name": "weather", "arguments": json.dumps({"city": city})}
            call = {"index": index, "id": f"c{index}", "type": "function", "function": function}
            await heard.chunk(sse(openai_chunk(heard, {"tool_calls": [call]})))
        await heard.chunk(sse(openai_chunk(heard, {}, "tool_calls")))
        await heard.chunk(b"data: [DONE]\n\n")
    await heard.end()


@pytest.mark.parametrize("kind", ["mlx", "ollama"])
@pytest.mark.parametrize(("parallel", "cities"), [(False, _CITIES[:1]), (True, _CITIES)])
def test_who_wants_one_call_at_a_time_is_told_one(
    stand_in: Run, proxy_for: StartProxy, kind: str, parallel: bool, cities: tuple[str, ...]
) -> None:
    url = proxy_for(backend("m", kind, stand_in(_calls_three_tools).url))
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        whole = client.chat.completions.create(
            model="m", messages=CONVERSATION, tools=[WEATHER], parallel_tool_calls=parallel
        )
        stream = client.chat.completions.create(
            model="m", messages=CONVERSATION, tools=[WEATHER], parallel_tool_calls=parallel, stream=True
        )
        chunks = [chunk.choices[0] for chunk in stream]
        function = {"type": "function", **WEATHER["function"]}
        response = httpx.post(
            f"{url}/v1/responses",
            json={"model": "m", "input": "Weather?", "tools": [function], "parallel_tool_calls": parallel},
        ).json()
    told = [
        json.loads(call.function.arguments)["city"]
        for call in whole.choices[0].message.tool_calls or []
        if call.type == "function"
    ]
    assert tuple(told) == cities
    assert whole.choices[0].finish_reason == chunks[-1].finish_reason == "tool_calls"
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert [call.index for call in calls] == list(range(len(cities)))
    items = [item for item in response["output"] if item["type"] == "function_call"]
    assert tuple(json.loads(item["arguments"])["city"] for item in items) == cities
    assert response["parallel_tool_calls"] is parallel


_LIKELY = [{"token": "Hello", "logprob": -0.25, "bytes": [72, 101]}, {"token": "Hi", "logprob": -1.5, "bytes": [72]}]


async def _tells_how_likely_tokens_are(heard: Heard) -> None:
    """Answer like an Ollama from version 0.12.11 on, which says it with each piece, and once without any text."""
    assert heard.json["logprobs"] is True
    likely = _LIKELY[: heard.json.get("top_logprobs", 0)]
    await heard.start("application/x-ndjson")
    for piece in ("Hello", "", "!"):
        told = {"token": piece or "<end>", "logprob": -0.25, "bytes": [*piece.encode()]}
        more = {"top_logprobs": likely} if likely else {}
        await heard.chunk(ollama_line(heard, piece, logprobs=[told | more]))
    await heard.chunk(ollama_line(heard, "", **OLLAMA_END))
    await heard.end()


@pytest.mark.parametrize("top", [2, 0])
def test_the_openai_client_is_told_by_ollama_how_likely_tokens_are(
    stand_in: Run, proxy_for: StartProxy, top: int
) -> None:
    url = proxy_for(backend("m", "ollama", stand_in(_tells_how_likely_tokens_are).url))
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        chat = client.chat.completions
        whole = chat.create(model="m", messages=CONVERSATION, logprobs=True, top_logprobs=top)
        stream = chat.create(model="m", messages=CONVERSATION, logprobs=True, top_logprobs=top, stream=True)
        chunks = [chunk.choices[0] for chunk in stream]
    assert whole.choices[0].message.content == "Hello!"
    told = [whole.choices[0].logprobs, *(chunk.logprobs for chunk in chunks)]
    of_all, *of_each = [logprobs.content or [] for logprobs in told if logprobs is not None]
    assert [token.token for token in of_all] == ["Hello", "<end>", "!"]
    assert [token for tokens in of_each for token in tokens] == of_all
    assert len(of_each) == 3, "each piece has its own"
    assert [(likely.token, likely.logprob, likely.bytes) for likely in of_all[0].top_logprobs] == [
        (likely["token"], likely["logprob"], likely["bytes"]) for likely in _LIKELY[:top]
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_an_ollama_that_does_not_tell_how_likely_tokens_are_is_told_by_name_or_left_for_another(
    stand_in: Run, proxy_for: StartProxy, stream: bool
) -> None:
    older, newer = stand_in(ollama_engine).url, stand_in(_tells_how_likely_tokens_are).url
    url = proxy_for(
        backend("old", "ollama", older),
        backend("both", "ollama", older, number=2, priority=1),
        backend("both", "ollama", newer, number=3, priority=2),
    )
    question = {"messages": CONVERSATION, "logprobs": True, "stream": stream}
    refused = httpx.post(f"{url}/v1/chat/completions", json={"model": "old", **question})
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "logprobs"
    assert "from version 0.12.11" in refused.json()["error"]["message"]
    served = httpx.post(f"{url}/v1/chat/completions", json={"model": "both", **question})
    assert served.status_code == 200
    assert "<end>" in served.text
    backends = httpx.get(f"{url}/health").json()["backends"]
    assert {one["state"] for one in backends} == {"closed"}, "the engine is sound"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": CONVERSATION}),
        ("/v1/completions", {"prompt": "Once"}),
        ("/api/chat", {"messages": CONVERSATION}),
        ("/api/generate", {"prompt": "Once"}),
    ],
)
def test_replies_in_the_callers_own_dialect_are_passed_on_byte_for_byte(
    stand_in: Run, proxy_for: StartProxy, path: str, body: dict[str, object], stream: bool
) -> None:
    upstream = stand_in(openai_engine if path.startswith("/v1/") else ollama_engine)
    url = proxy_for(backend("m", "openai" if path.startswith("/v1/") else "ollama", upstream.url))
    question = {"model": "m", "stream": stream, "stream_options": {"include_usage": True}, **body}
    direct = httpx.post(upstream.url + path, json=question)
    through = httpx.post(url + path, json=question)
    assert through.content == direct.content
    assert through.headers["content-type"] == direct.headers["content-type"]
    assert through.status_code == direct.status_code == 200
