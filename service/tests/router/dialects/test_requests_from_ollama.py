"""What a caller of Ollama's API asks, and what an engine with OpenAI's API is then sent."""

import json
from typing import Any

import pytest

from athena.router.call import Call
from athena.router.dialects import codec
from athena.router.errors import RequestRejectedError
from athena.router.types import Dialect, Message, Operation, Request, Sampling, ToolCall

JPEG = "/9j/4AAQSkZJRg=="
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"sky": {"type": "string"}}}


def chat(**fields: Any) -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields
    return Call(Dialect.OLLAMA, Operation.CHAT, json.dumps(body).encode()).request


def generate(**fields: Any) -> Request:
    return Call(Dialect.OLLAMA, Operation.GENERATE, json.dumps({"model": "m"} | fields).encode()).request


def for_openai(request: Request) -> dict[str, Any]:
    sent: dict[str, Any] = json.loads(codec(Dialect.OPENAI).encode_request(request))
    return sent


@pytest.mark.parametrize(
    ("message", "understood", "sent"),
    [
        pytest.param(
            {"role": "system", "content": "Be brief"},
            Message(role="system", content="Be brief"),
            {"role": "system", "content": "Be brief"},
            id="text",
        ),
        pytest.param(
            {"role": "user", "content": "What is it?", "images": [JPEG]},
            Message(role="user", content="What is it?", images=[JPEG]),
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{JPEG}"}},
                ],
            },
            id="an image",
        ),
        pytest.param(
            {"role": "user", "images": [JPEG]},
            Message(role="user", images=[JPEG]),
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{JPEG}"}}],
            },
            id="nothing but an image",
        ),
        pytest.param(
            {"role": "assistant", "content": None, "tool_calls": None, "images": None},
            Message(role="assistant"),
            {"role": "assistant", "content": ""},
            id="nulls",
        ),
    ],
)
def test_a_message_means_the_same_to_openai(message: dict[str, Any], understood: Message, sent: dict[str, Any]) -> None:
    request = chat(messages=[message])
    assert request.messages == [understood]
    assert for_openai(request)["messages"] == [sent]


def test_tool_calls_get_ids_and_their_answers_find_them_in_order() -> None:
    call = {"function": {"name": "weather", "arguments": {"in": "Oslo"}}}
    request = chat(
        messages=[
            {"role": "assistant", "content": "", "tool_calls": [call, {"function": {"name": "now"}}]},
            {"role": "tool", "tool_name": "weather", "content": "rain"},
            {"role": "tool", "tool_name": "now", "content": "noon"},
        ]
    )
    assert request.messages[0].tool_calls == [
        ToolCall(name="weather", arguments='{"in":"Oslo"}'),
        ToolCall(name="now", arguments="{}"),
    ]
    asked, first, second = for_openai(request)["messages"]
    ids = [made["id"] for made in asked["tool_calls"]]
    assert len(set(ids)) == 2
    assert [made["type"] for made in asked["tool_calls"]] == ["function", "function"]
    assert [made["function"]["arguments"] for made in asked["tool_calls"]] == ['{"in":"Oslo"}', "{}"]
    assert [first["tool_call_id"], second["tool_call_id"]] == ids


def test_an_answer_finds_the_call_of_its_tool_in_any_order() -> None:
    calls: list[dict[str, Any]] = [{"function": {"name": name, "arguments": {}}} for name in ("now", "weather", "now")]
    answers = [{"role": "tool", "tool_name": name, "content": "…"} for name in ("weather", "now", "now")]
    asked, *answered = for_openai(chat(messages=[{"role": "assistant", "tool_calls": calls}, *answers]))["messages"]
    first, second, third = (call["id"] for call in asked["tool_calls"])
    assert [answer["tool_call_id"] for answer in answered] == [second, first, third]


def test_thoughts_of_earlier_turns_are_handed_on() -> None:
    message = {"role": "assistant", "content": "Hi", "thinking": "They greet."}
    assert for_openai(chat(messages=[message]))["messages"] == [
        {"role": "assistant", "content": "Hi", "reasoning_content": "They greet."}
    ]


def test_an_answer_of_a_tool_that_nobody_asked_still_has_an_id() -> None:
    assert for_openai(chat(messages=[{"role": "tool", "content": "rain"}]))["messages"][0]["tool_call_id"]


@pytest.mark.parametrize(
    ("options", "understood", "sent"),
    [
        ({}, Sampling(), {}),
        (None, Sampling(), {}),
        ({"temperature": 0, "seed": 0}, Sampling(temperature=0.0, seed=0), {"temperature": 0.0, "seed": 0}),
        ({"num_predict": 5}, Sampling(max_tokens=5), {"max_tokens": 5}),
        ({"num_predict": -1}, Sampling(), {}),  # no limit: so the backend's
        ({"stop": ["a"]}, Sampling(stop=["a"]), {"stop": ["a"]}),
        ({"temperature": None, "stop": None}, Sampling(), {}),
        (
            {"top_p": 1, "top_k": 0, "min_p": 0, "repeat_penalty": 1.1},
            Sampling(top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.1),
            {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.1},
        ),
        (
            {"frequency_penalty": 1, "presence_penalty": -1},
            Sampling(frequency_penalty=1.0, presence_penalty=-1.0),
            {"frequency_penalty": 1.0, "presence_penalty": -1.0},
        ),
    ],
)
def test_options_mean_the_same_to_openai(options: Any, understood: Sampling, sent: dict[str, Any]) -> None:
    request = chat(options=options, stream=False)
    assert request.sampling == understood
    assert {n: v for n, v in for_openai(request).items() if n not in {"model", "messages"}} == sent


def test_options_without_a_neutral_word_stay_together() -> None:
    request = chat(options={"num_ctx": 4096, "mirostat": 1, "seed": 7, "numa": None})
    assert request.extra == {"options": {"num_ctx": 4096, "mirostat": 1}}
    assert json.loads(codec(Dialect.OLLAMA).encode_request(request))["options"] == {
        "num_ctx": 4096,
        "mirostat": 1,
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("wanted", "understood", "sent"),
    [
        (None, None, None),
        ("", None, None),
        ("json", {}, {"type": "json_object"}),
        (SCHEMA, SCHEMA, {"type": "json_schema", "json_schema": {"name": "response", "schema": SCHEMA}}),
    ],
)
def test_a_wanted_form_of_the_answer_means_the_same_to_openai(wanted: Any, understood: Any, sent: Any) -> None:
    request = chat(format=wanted)
    assert request.response_schema == understood
    assert for_openai(request).get("response_format") == sent


def test_a_stream_comes_unless_it_is_declined() -> None:
    assert chat().stream is True
    assert generate(prompt="Hi", stream=None).stream is True
    assert generate(prompt="Hi", stream=False).stream is False


def test_tokens_are_counted_at_the_end_as_ollama_always_does() -> None:
    assert for_openai(chat())["stream_options"] == {"include_usage": True}
    assert "stream_options" not in for_openai(chat(stream=False))


def test_a_prompt_and_its_system_prompt_become_one_text() -> None:
    request = generate(prompt="Once", system="Be brief")
    assert (request.prompt, request.system) == ("Once", "Be brief")
    assert for_openai(request)["prompt"] == "Be brief\n\nOnce"
    assert for_openai(generate(prompt="Once"))["prompt"] == "Once"


def test_a_request_without_prompt_or_messages_is_ollamas_way_to_load_a_model() -> None:
    assert generate().prompt == ""
    assert chat(messages=[]).messages == []
    assert chat(messages=None).messages == []


def test_tools_are_handed_on_as_they_are() -> None:
    assert for_openai(chat(tools=[TOOL]))["tools"] == [TOOL]


def test_fields_that_openai_lacks_are_kept_and_not_sent_there() -> None:
    request = generate(prompt="Hi", keep_alive="5m", think=True)
    assert request.extra == {"keep_alive": "5m", "think": True}
    assert for_openai(request).keys() == {"model", "prompt", "stream", "stream_options"}
    assert json.loads(codec(Dialect.OLLAMA).encode_request(request))["keep_alive"] == "5m"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "images": "x"}]}, "messages.0.images"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
            "messages.0.tool_calls.0.function.arguments",
        ),
        ({"format": "yaml"}, "format"),
        ({"options": []}, "options"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"num_predict": 1.5}}, "options.num_predict"),
        ({"options": {"stop": "one"}}, "options.stop"),
        ({"options": {"top_k": -1}}, "options.top_k"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestRejectedError) as refusal:
        _ = chat(**fields)
    assert refusal.value.field == field
    assert refusal.value.detail.startswith(f"{field}: ")
