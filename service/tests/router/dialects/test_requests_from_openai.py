"""What a caller of OpenAI's API asks, and what an engine with Ollama's API is then sent."""

import json
from typing import Any

import pytest

from athena.router.call import Call
from athena.router.dialects import codec
from athena.router.errors import RequestRejectedError
from athena.router.types import Dialect, Message, Operation, Request, Sampling, ToolCall

PNG = "iVBORw0KGgoAAAANSUhEUg=="
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"sky": {"type": "string"}}}
USER = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> Request:
    body = {"model": "m", "messages": USER} | fields
    return Call(Dialect.OPENAI, Operation.CHAT, json.dumps(body).encode()).request


def completion(**fields: Any) -> Request:
    return Call(Dialect.OPENAI, Operation.GENERATE, json.dumps({"model": "m"} | fields).encode()).request


def for_ollama(request: Request) -> dict[str, Any]:
    sent: dict[str, Any] = json.loads(codec(Dialect.OLLAMA).encode_request(request))
    return sent


@pytest.mark.parametrize(
    ("message", "understood", "sent"),
    [
        pytest.param(
            {"role": "user", "content": "Hi"},
            Message(role="user", content="Hi"),
            {"role": "user", "content": "Hi"},
            id="text",
        ),
        pytest.param(
            {"role": "developer", "content": "Be brief"},
            Message(role="system", content="Be brief"),
            {"role": "system", "content": "Be brief"},
            id="developer is the newer word for system",
        ),
        pytest.param(
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            Message(role="user", content="a\nb"),
            {"role": "user", "content": "a\nb"},
            id="parts of text",
        ),
        pytest.param(
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
                ],
            },
            Message(role="user", content="What is it?", images=[PNG]),
            {"role": "user", "content": "What is it?", "images": [PNG]},
            id="an image",
        ),
        pytest.param(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"in": "Oslo"}'}}
                ],
            },
            Message(role="assistant", tool_calls=[ToolCall(id="c1", name="weather", arguments='{"in": "Oslo"}')]),
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": {"in": "Oslo"}}}],
            },
            id="a tool call",
        ),
        pytest.param(
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            Message(role="tool", content="rain", tool_call_id="c1"),
            {"role": "tool", "content": "rain", "tool_call_id": "c1"},
            id="a tool's answer",
        ),
        pytest.param(
            {"role": "assistant", "content": None, "refusal": "No."},
            Message(role="assistant", content="No."),
            {"role": "assistant", "content": "No."},
            id="a refusal is what the assistant said",
        ),
        pytest.param(
            {"role": "assistant", "content": "Hi", "reasoning_content": "They greet."},
            Message(role="assistant", content="Hi", thinking="They greet."),
            {"role": "assistant", "content": "Hi", "thinking": "They greet."},
            id="thoughts",
        ),
    ],
)
def test_a_message_means_the_same_to_ollama(message: dict[str, Any], understood: Message, sent: dict[str, Any]) -> None:
    request = chat(messages=[message])
    assert request.messages == [understood]
    assert for_ollama(request)["messages"] == [sent]


@pytest.mark.parametrize(
    ("fields", "understood", "options"),
    [
        ({"temperature": 0}, Sampling(temperature=0.0), {"temperature": 0.0}),
        ({"max_tokens": 5}, Sampling(max_tokens=5), {"num_predict": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, Sampling(max_tokens=7), {"num_predict": 7}),
        ({"max_tokens": 5, "max_completion_tokens": None}, Sampling(max_tokens=5), {"num_predict": 5}),
        ({"stop": "\n"}, Sampling(stop=["\n"]), {"stop": ["\n"]}),
        ({"stop": ["a", "b"]}, Sampling(stop=["a", "b"]), {"stop": ["a", "b"]}),
        ({"stop": None, "temperature": None, "seed": None}, Sampling(), None),
        (
            {"top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -1},
            Sampling(top_p=0.9, top_k=40, min_p=0.1, seed=-1),
            {"top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -1},
        ),
        (
            {"frequency_penalty": -2, "presence_penalty": 2, "repetition_penalty": 1.1},
            Sampling(frequency_penalty=-2.0, presence_penalty=2.0, repeat_penalty=1.1),
            {"frequency_penalty": -2.0, "presence_penalty": 2.0, "repeat_penalty": 1.1},
        ),
    ],
)
def test_how_to_sample_means_the_same_to_ollama(
    fields: dict[str, Any], understood: Sampling, options: dict[str, Any] | None
) -> None:
    request = chat(**fields)
    assert request.sampling == understood
    assert for_ollama(request).get("options") == options


@pytest.mark.parametrize(
    ("response_format", "understood", "sent"),
    [
        (None, None, None),
        ({"type": "text"}, None, None),
        ({"type": "json_object"}, {}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}}, SCHEMA, SCHEMA),
    ],
)
def test_a_wanted_form_of_the_answer_means_the_same_to_ollama(response_format: Any, understood: Any, sent: Any) -> None:
    request = chat(response_format=response_format)
    assert request.response_schema == understood
    assert for_ollama(request).get("format") == sent


def test_tools_are_handed_on_as_they_are() -> None:
    assert for_ollama(chat(tools=[TOOL]))["tools"] == [TOOL]
    assert "tools" not in for_ollama(chat(tools=[]))


def test_a_stream_comes_only_if_it_is_asked_for() -> None:
    assert chat().stream is False
    assert chat(stream=None).stream is False
    assert chat(stream=True).stream is True
    assert for_ollama(chat())["stream"] is False  # Ollama would stream if it were not told


def test_usage_at_the_end_of_a_stream_comes_only_if_it_is_asked_for() -> None:
    assert chat(stream=True).include_usage is False
    assert chat(stream=True, stream_options={}).include_usage is False
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage is True


def test_a_prompt_is_text_or_a_list_of_one_text() -> None:
    assert completion(prompt="Once").prompt == "Once"
    assert completion(prompt=["Once"]).prompt == "Once"
    assert for_ollama(completion(prompt="Once"))["prompt"] == "Once"


@pytest.mark.parametrize("prompt", [[], ["a", "b"], [1, 2], [[1, 2]], [None]])
def test_a_list_of_prompts_or_tokens_is_refused_and_says_what_to_do(prompt: list[Any]) -> None:
    with pytest.raises(RequestRejectedError, match="one request for each prompt") as refusal:
        completion(prompt=prompt)
    assert refusal.value.field == "prompt"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"content": "no role"}]}, "messages.1"),
        ({"messages": [{"role": "judge", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages.0.content.0.type",
        ),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"top_p": 1.1}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"stop": [1]}, "stop.0"),
        ({"tools": ["weather"]}, "tools.0"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestRejectedError) as refusal:
        _ = chat(**fields)
    assert refusal.value.field == field
    assert refusal.value.detail.startswith(f"{field}: ")


@pytest.mark.parametrize(
    "url",
    ["https://intranet.example.internal/x.png", "http://127.0.0.1/", "file:///etc/passwd", "data:text/html;base64,aa"],
)
def test_an_address_is_never_fetched_as_an_image(url: str) -> None:
    with pytest.raises(RequestRejectedError, match="send the image itself") as refusal:
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])
    assert refusal.value.field == "messages.0.content.0.image_url.url"


def test_a_tool_call_without_id_and_arguments_is_one_without_arguments() -> None:
    request = chat(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": ""}}]}])
    assert for_ollama(request)["messages"][0]["tool_calls"] == [{"function": {"name": "now", "arguments": {}}}]


@pytest.mark.parametrize("arguments", ["[1]", "{", "null", "1e999", "[" * 5000])
def test_arguments_of_a_tool_call_that_are_no_object_are_refused_where_ollama_needs_one(arguments: str) -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(RequestRejectedError, match="must be a JSON object") as refusal:
        for_ollama(chat(messages=[{"role": "assistant", "tool_calls": [call]}]))
    assert refusal.value.field == "messages.0.tool_calls.0.function.arguments"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "Expected `object`"),
        (b'{"messages": []}', "`model`"),
        (b'{"model": ""}', "model"),
        (b'{"model": null}', "model"),
        (b'{"model": "a\\u0000b"}', "model"),
        (b'{"model": "m", "stream": 1}', "stream"),
        (b'{"model": "\xff"}', "UTF-8"),
        (b'{"model": "m", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_no_request_is_refused_before_it_is_routed(body: bytes, words: str) -> None:
    with pytest.raises(RequestRejectedError, match=words):
        Call(Dialect.OPENAI, Operation.CHAT, body)


def test_ollama_is_told_the_name_of_the_tool_that_answers() -> None:
    calls = [{"id": f"c{n}", "function": {"name": name, "arguments": ""}} for n, name in enumerate(("now", "weather"))]
    answers = [{"role": "tool", "tool_call_id": f"c{n}", "content": "…"} for n in (1, 0)]
    sent = for_ollama(chat(messages=[{"role": "assistant", "tool_calls": calls}, *answers]))["messages"]
    assert [message.get("tool_name") for message in sent] == [None, "weather", "now"]


def test_what_a_message_says_beyond_its_neutral_words_is_kept_by_its_place() -> None:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "Hi",
        "audio": {"id": "a"},
        "annotations": [],
        "function_call": None,
    }
    assert chat(messages=[*USER, message]).extra == {"messages.1.audio": {"id": "a"}}


def test_fields_without_a_neutral_word_are_kept() -> None:
    assert chat(logit_bias={"5": 1}, user="u", nothing=None).extra == {"logit_bias": {"5": 1}, "user": "u"}
