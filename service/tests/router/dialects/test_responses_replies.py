"""What a caller of OpenAI's Responses API receives, read by the official client's own types."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from athena.router.dialects import ReplyEncoder, codec
from athena.router.errors import FailureKind, StreamBrokenError
from athena.router.types import Delta, Dialect, Event, Operation, ToolCall
from tests.router.dialects.test_replies_to_callers import CALL, SAID, TEXT, THOUGHT, stop, streamed

_EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
OPENING = ["response.created", "response.in_progress"]
ITEM = ["response.output_item.added", "response.content_part.added"]
ITEM_END = ["response.content_part.done", "response.output_item.done"]
TOLD = [*ITEM, "response.output_text.delta", "response.output_text.delta", "response.output_text.done", *ITEM_END]
THOUGHT_OF = [*ITEM, "response.reasoning_text.delta", "response.reasoning_text.done", *ITEM_END]
CALLED = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]


def encoder() -> ReplyEncoder:
    echo = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "temperature": 0.5, "instructions": None}
    return codec(Dialect.RESPONSES).encoder(Operation.CHAT, "m", echo=echo)


def heard(events: Sequence[Event]) -> list[Any]:
    """Return the stream's events as the client's types, each of which is checked for its name and its number."""
    read: list[Any] = []
    for number, event in enumerate(streamed(encoder(), events).decode().removesuffix("\n\n").split("\n\n")):
        name, data = event.split("\n")
        typed = _EVENT.validate_json(data.removeprefix("data: "), strict=True)
        assert name == f"event: {typed.type}"
        assert typed.sequence_number == number
        read.append(typed)
    return read


@pytest.mark.parametrize(
    ("events", "names"),
    [
        ([*TEXT, stop()], [*TOLD, "response.completed"]),
        ([THOUGHT, *TEXT, stop()], [*THOUGHT_OF, *TOLD, "response.completed"]),
        ([*TEXT, Delta(tool_calls=(CALL, CALL)), stop("tool_calls")], [*TOLD, *CALLED, *CALLED, "response.completed"]),
        ([*TEXT, stop("length")], [*TOLD, "response.incomplete"]),
        ([stop()], [*ITEM, "response.output_text.done", *ITEM_END, "response.completed"]),
    ],
)
def test_events_come_in_the_official_order(events: Sequence[Event], names: list[str]) -> None:
    assert [event.type for event in heard(events)] == [*OPENING, *names]


def test_the_pieces_add_up_to_the_response_at_the_end() -> None:
    events = heard([THOUGHT, *TEXT, Delta(tool_calls=(CALL,)), stop("tool_calls")])
    response = events[-1].response
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == SAID
    assert response.output_text == SAID
    assert [event.item for event in events if event.type == "response.output_item.done"] == response.output
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    indices = [event.output_index for event in events if hasattr(event, "output_index")]
    assert indices == sorted(indices)
    assert {event.response.id for event in events if hasattr(event, "response")} == {response.id}
    for event in events:
        if hasattr(event, "item_id"):
            assert event.item_id == response.output[event.output_index].id


def test_a_whole_response_is_openais() -> None:
    whole = encoder().whole([THOUGHT, *TEXT, Delta(tool_calls=(CALL,)), stop("tool_calls")])
    response = Response.model_validate_json(whole, strict=True)
    assert (response.status, response.model, response.error, response.temperature) == ("completed", "m", None, 0.5)
    assert json.loads(whole)["store"] is False
    thought, said, called = response.output
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert thought.content[0].text == "Rayleigh"
    assert said.type == "message"
    assert called.type == "function_call"
    assert (called.name, json.loads(called.arguments)) == ("weather", {"in": "Oslo"})
    assert called.call_id
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (3, 4, 7)
    assert response.usage.input_tokens_details.cached_tokens == 2


@pytest.mark.parametrize(("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_a_response_that_is_not_complete_says_why(reason: Any, told: str) -> None:
    response = Response.model_validate_json(encoder().whole([*TEXT, stop(reason)]), strict=True)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == told
    said = response.output[0]
    assert said.type == "message"
    assert said.status == "incomplete"


def test_a_call_keeps_the_engines_id() -> None:
    call = ToolCall(id="c9", name="now", arguments="")
    response = Response.model_validate_json(encoder().whole([Delta(tool_calls=(call,)), stop()]), strict=True)
    called = response.output[0]
    assert called.type == "function_call"
    assert (called.call_id, called.arguments) == ("c9", "{}")


def test_a_broken_stream_ends_in_an_error_event() -> None:
    told = encoder().broken(StreamBrokenError(FailureKind.RESET, "it broke off")).decode()
    event = _EVENT.validate_json(told.partition("data: ")[2], strict=True)
    assert event.type == "error"
    assert (event.code, event.message) == ("stream_broken", "it broke off")
