"""What a caller of OpenAI's Responses API asks."""

import json
from typing import Any

import pytest

from athena.router.call import Call
from athena.router.errors import RequestRejectedError
from athena.router.types import Dialect, Message, Operation, Request, Sampling, ToolCall

PNG = "iVBORw0KGgoAAAANSUhEUg=="
SCHEMA = {"type": "object", "properties": {"sky": {"type": "string"}}}
USER = {"role": "user", "content": "Hi"}
CALLED = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": '{"in": "Oslo"}'}
CALL = ToolCall(id="c1", name="weather", arguments='{"in": "Oslo"}')


def asked(**fields: Any) -> Request:
    return Call(Dialect.RESPONSES, Operation.CHAT, json.dumps({"model": "m", "input": "Hi"} | fields).encode()).request


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        pytest.param("Hi", [Message(role="user", content="Hi")], id="text"),
        pytest.param([USER], [Message(role="user", content="Hi")], id="a message"),
        pytest.param([{"type": "message", **USER}], [Message(role="user", content="Hi")], id="a message by name"),
        pytest.param(
            [{"role": "developer", "content": [{"type": "input_text", "text": "Be brief"}]}],
            [Message(role="system", content="Be brief")],
            id="developer is the newer word for system",
        ),
        pytest.param(
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What is it?"},
                        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
                    ],
                }
            ],
            [Message(role="user", content="What is it?", images=[PNG])],
            id="an image",
        ),
        pytest.param(
            [
                USER,
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [],
                    "content": [{"type": "reasoning_text", "text": "Think."}],
                    "encrypted_content": None,
                    "status": "completed",
                },
                {
                    "type": "message",
                    "id": "msg_1",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "Let me look.", "annotations": [], "logprobs": []}],
                },
                CALLED,
                {**CALLED, "call_id": "c2"},
                {"type": "function_call_output", "call_id": "c1", "output": "rain"},
                {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "sun"}]},
            ],
            [
                Message(role="user", content="Hi"),
                Message(
                    role="assistant",
                    content="Let me look.",
                    thinking="Think.",
                    tool_calls=[CALL, ToolCall(id="c2", name="weather", arguments='{"in": "Oslo"}')],
                ),
                Message(role="tool", content="rain", tool_call_id="c1"),
                Message(role="tool", content="sun", tool_call_id="c2"),
            ],
            id="a turn of several items, as the client sends them back",
        ),
        pytest.param(
            [CALLED, {"type": "function_call_output", "call_id": "c1", "output": "rain"}, CALLED],
            [
                Message(role="assistant", tool_calls=[CALL]),
                Message(role="tool", content="rain", tool_call_id="c1"),
                Message(role="assistant", tool_calls=[CALL]),
            ],
            id="calls in two turns",
        ),
        pytest.param(
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}, USER],
            [Message(role="assistant", thinking="Hm."), Message(role="user", content="Hi")],
            id="a thought that led to nothing",
        ),
    ],
)
def test_input_becomes_a_conversation(said: Any, understood: list[Message]) -> None:
    request = asked(input=said)
    assert request.messages == understood
    assert request.extra == {}


def test_instructions_come_first() -> None:
    assert asked(instructions="Be brief").messages[0] == Message(role="system", content="Be brief")


def test_how_to_sample_and_what_to_think_are_chats() -> None:
    request = asked(temperature=0, top_p=0.5, max_output_tokens=20, reasoning={"effort": "low", "summary": "auto"})
    assert request.sampling == Sampling(temperature=0.0, top_p=0.5, max_tokens=20)
    assert request.extra == {"reasoning_effort": "low"}


def test_functions_are_written_as_chat_has_them() -> None:
    tool = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True, "description": None}
    request = asked(tools=[tool], tool_choice={"type": "function", "name": "weather"}, parallel_tool_calls=False)
    function = {"name": "weather", "parameters": SCHEMA, "strict": True}
    assert request.tools == [{"type": "function", "function": function}]
    assert request.extra == {
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
    }
    assert asked(tool_choice="required").extra == {"tool_choice": "required"}


@pytest.mark.parametrize(
    ("form", "understood"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {}),
        ({"type": "json_schema", "name": "s", "schema": SCHEMA, "strict": True}, SCHEMA),
    ],
)
def test_a_wanted_form_is_understood(form: Any, understood: Any) -> None:
    assert asked(text={"format": form}).response_schema == understood


def test_what_a_response_repeats_is_kept_as_the_caller_said_it() -> None:
    echo = asked(metadata={"a": "b"}, temperature=0.5, tools=None).echo
    assert (echo["metadata"], echo["temperature"], echo["tools"]) == ({"a": "b"}, 0.5, [])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.type"),
        ({"input": [USER, {"type": ["message"], **USER}]}, "input.1.type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [USER, {"type": "function_call", "call_id": "c1", "name": "f"}]}, "input.1.arguments"),
        ({"input": [{**CALLED, "arguments": "{"}]}, "input.0.arguments"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input.0.content.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://127.0.0.1/"}]}]},
            "input.0.content.0.image_url",
        ),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format.schema"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_cannot_be_served_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestRejectedError) as refusal:
        asked(**fields)
    assert refusal.value.field == field


def test_that_nothing_is_stored_may_be_said() -> None:
    assert asked(store=False, background=False, previous_response_id=None).messages


def test_what_has_no_neutral_word_is_kept_by_its_place() -> None:
    foreign = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
    fields = {"include": ["file_search_call.results"], "truncation": "auto", "text": {"verbosity": "low"}}
    request = asked(input=[foreign, USER], tools=[{"type": "web_search"}], **fields)
    assert request.extra == {
        "include": ["file_search_call.results"],
        "truncation": "auto",
        "text.verbosity": "low",
        "tools.0.type": "web_search",
        "input.0.encrypted_content": "gAAA",
    }
