"""What callers receive, read by the official clients' own types."""

import json
from collections.abc import Sequence
from typing import Any

import ollama
import pytest
from openai.types import Completion, CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from athena.errors import AthenaError, ForbiddenError, UnauthorizedError
from athena.router.dialects import ReplyEncoder, codec
from athena.router.errors import (
    FailureKind,
    ModelNotFoundError,
    NoBackendError,
    RequestRejectedError,
    StreamBrokenError,
)
from athena.router.types import Delta, Dialect, Event, Finish, Operation, ToolCall, Usage

USAGE = Usage(
    prompt_tokens=3, completion_tokens=4, cached_tokens=2, load_seconds=0.5, prompt_seconds=0.25, completion_seconds=2.0
)
TEXT = [Delta(text="The sky"), Delta(text=' is "blue" ☁\n\0')]
SAID = 'The sky is "blue" ☁\n\0'
THOUGHT = Delta(thinking="Rayleigh")
CALL = ToolCall(name="weather", arguments='{"in": "Oslo"}')


def stop(reason: Any = "stop") -> Finish:
    return Finish(reason=reason, usage=USAGE)


def openai_encoder(operation: Operation, *, include_usage: bool = True) -> ReplyEncoder:
    return codec(Dialect.OPENAI).encoder(operation, "m", include_usage=include_usage)


def ollama_encoder(operation: Operation) -> ReplyEncoder:
    return codec(Dialect.OLLAMA).encoder(operation, "m")


def streamed(encoder: ReplyEncoder, events: Sequence[Event]) -> bytes:
    pieces = [encoder.start()]
    pieces += [encoder.delta(event) if isinstance(event, Delta) else encoder.finish(event) for event in events]
    return b"".join(pieces)


def server_sent(stream: bytes) -> list[bytes]:
    """Return the data of each event; every event is one `data:` line and a blank one."""
    assert stream.endswith(b"\n\n")
    lines = stream[:-2].split(b"\n\n")
    assert all(line.startswith(b"data: ") and b"\n" not in line for line in lines)
    return [line.removeprefix(b"data: ") for line in lines]


def chat_chunks(events: Sequence[Event], *, include_usage: bool = True) -> list[ChatCompletionChunk]:
    stream = streamed(openai_encoder(Operation.CHAT, include_usage=include_usage), events)
    *chunks, end = server_sent(stream)
    assert end == b"[DONE]"
    return [ChatCompletionChunk.model_validate_json(chunk, strict=True) for chunk in chunks]


def test_a_chat_streams_in_the_chunks_of_openais_client() -> None:
    first, *middle, last, usage = chat_chunks([*TEXT, stop("length")])
    assert first.choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in middle) == SAID
    assert [chunk.choices[0].finish_reason for chunk in (first, *middle)] == [None] * 3
    assert last.choices[0].finish_reason == "length"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.prompt_tokens_details is not None
    assert (usage.usage.prompt_tokens, usage.usage.completion_tokens, usage.usage.total_tokens) == (3, 4, 7)
    assert usage.usage.prompt_tokens_details.cached_tokens == 2
    assert {(chunk.id, chunk.model, chunk.object, chunk.created) for chunk in (first, *middle, last, usage)} == {
        (first.id, "m", "chat.completion.chunk", first.created)
    }


def test_a_caller_that_does_not_ask_for_usage_gets_no_chunk_without_choices() -> None:
    chunks = chat_chunks([*TEXT, stop()], include_usage=False)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_thoughts_stream_under_both_names_that_clients_look_for() -> None:
    thought = chat_chunks([THOUGHT, *TEXT, stop()])[1].choices[0].delta
    assert thought.content is None
    assert thought.model_extra == {"reasoning": "Rayleigh", "reasoning_content": "Rayleigh"}


def test_tool_calls_stream_numbered_each_with_an_id() -> None:
    events: list[Event] = [
        Delta(tool_calls=(CALL, CALL)),
        Delta(tool_calls=(ToolCall(id="c9", name="now", arguments="{}"),)),
        stop(),
    ]
    chunks = chat_chunks(events)
    calls = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or []]
    assert [call.index for call in calls] == [0, 1, 2]
    assert [call.function.name for call in calls if call.function] == ["weather", "weather", "now"]
    assert len({call.id for call in calls}) == 3
    assert calls[2].id == "c9"
    assert chunks[-2].choices[0].finish_reason == "tool_calls"


def test_a_completion_streams_in_the_chunks_of_openais_client() -> None:
    *chunks, end = server_sent(streamed(openai_encoder(Operation.GENERATE), [*TEXT, stop()]))
    assert end == b"[DONE]"
    read = [json.loads(chunk) for chunk in chunks]
    for chunk in read[:-2]:
        assert chunk["object"] == "text_completion"
        assert chunk["choices"][0]["finish_reason"] is None
    Completion.model_validate_json(chunks[-2], strict=True)
    assert "".join(chunk["choices"][0]["text"] for chunk in read[:-1]) == SAID
    assert read[-1]["usage"]["total_tokens"] == 7


def test_a_whole_chat_is_openais() -> None:
    whole = openai_encoder(Operation.CHAT).whole([THOUGHT, *TEXT, stop()])
    reply = ChatCompletion.model_validate_json(whole, strict=True)
    assert reply.choices[0].message.content == SAID
    assert reply.choices[0].message.model_extra == {"reasoning": "Rayleigh", "reasoning_content": "Rayleigh"}
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == 7


def test_a_whole_chat_with_nothing_to_say_has_empty_text() -> None:
    reply = ChatCompletion.model_validate_json(openai_encoder(Operation.CHAT).whole([stop()]), strict=True)
    assert reply.choices[0].message.content == ""


def test_a_whole_chat_with_tool_calls_is_openais() -> None:
    whole = openai_encoder(Operation.CHAT).whole([Delta(tool_calls=(CALL,)), stop()])
    choice = ChatCompletion.model_validate_json(whole, strict=True).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"in": "Oslo"})
    assert call.id
    assert "index" not in json.loads(whole)["choices"][0]["message"]["tool_calls"][0]


def test_a_whole_completion_is_openais() -> None:
    whole = openai_encoder(Operation.GENERATE).whole([*TEXT, stop("length")])
    reply = Completion.model_validate_json(whole, strict=True)
    assert reply.choices[0].text == SAID
    assert reply.choices[0].finish_reason == "length"
    assert isinstance(reply.usage, CompletionUsage)


@pytest.mark.parametrize("model", ["\0", '"', "a/b:c", "☁", '"\\u0000"'])
def test_a_model_of_any_name_speaks(model: str) -> None:
    for operation in (Operation.CHAT, Operation.GENERATE):
        encoder = codec(Dialect.OPENAI).encoder(operation, model)
        chunk = json.loads(server_sent(encoder.delta(Delta(text="blue")))[0])
        assert chunk["model"] == model
        said = chunk["choices"][0]
        assert (said["delta"]["content"] if operation is Operation.CHAT else said["text"]) == "blue"


def ollama_lines(operation: Operation, events: Sequence[Event]) -> list[dict[str, Any]]:
    stream = streamed(ollama_encoder(operation), events)
    assert stream.endswith(b"\n")
    return [json.loads(line) for line in stream[:-1].split(b"\n")]


def test_a_chat_streams_in_the_lines_of_ollamas_client() -> None:
    events: list[Event] = [THOUGHT, *TEXT, Delta(tool_calls=(CALL,)), stop()]
    lines = [ollama.ChatResponse.model_validate(line) for line in ollama_lines(Operation.CHAT, events)]
    assert lines[0].message.thinking == "Rayleigh"
    assert "".join(line.message.content or "" for line in lines) == SAID
    calls = lines[3].message.tool_calls
    assert calls is not None
    assert (calls[0].function.name, calls[0].function.arguments) == ("weather", {"in": "Oslo"})
    assert [line.done for line in lines] == [False, False, False, False, True]
    assert all(line.model == "m" and line.message.role == "assistant" and line.created_at for line in lines)
    last = lines[-1]
    assert last.done_reason == "stop"
    assert (last.prompt_eval_count, last.eval_count) == (3, 4)
    assert (last.load_duration, last.prompt_eval_duration, last.eval_duration) == (500_000_000, 250_000_000, 2 * 10**9)
    assert last.total_duration is not None
    assert last.total_duration > 0


def test_a_continued_prompt_streams_in_the_lines_of_ollamas_client() -> None:
    lines = [
        ollama.GenerateResponse.model_validate(line)
        for line in ollama_lines(Operation.GENERATE, [THOUGHT, *TEXT, stop("length")])
    ]
    assert lines[0].thinking == "Rayleigh"
    assert "".join(line.response or "" for line in lines) == SAID
    assert (lines[-1].done, lines[-1].done_reason) == (True, "length")


def test_a_whole_reply_is_ollamas() -> None:
    chat = ollama.ChatResponse.model_validate_json(ollama_encoder(Operation.CHAT).whole([THOUGHT, *TEXT, stop()]))
    assert (chat.message.content, chat.message.thinking, chat.done) == (SAID, "Rayleigh", True)
    generated = ollama.GenerateResponse.model_validate_json(ollama_encoder(Operation.GENERATE).whole([*TEXT, stop()]))
    assert (generated.response, generated.eval_count) == (SAID, 4)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("", {}),
        ('{\n "in": "Oslo"\n}', {"in": "Oslo"}),
        ("not JSON", {"arguments": "not JSON"}),
        ("[1]", {"arguments": "[1]"}),
    ],
)
def test_whatever_arguments_a_model_writes_ollamas_client_reads_an_object(written: str, read: dict[str, Any]) -> None:
    events: list[Event] = [Delta(tool_calls=(ToolCall(name="f", arguments=written),)), stop()]
    line = ollama.ChatResponse.model_validate(ollama_lines(Operation.CHAT, events)[0])
    assert line.message.tool_calls is not None
    assert line.message.tool_calls[0].function.arguments == read


def test_content_types_are_those_of_the_dialects_own_servers() -> None:
    assert openai_encoder(Operation.CHAT).content_type.startswith(b"text/event-stream")
    assert ollama_encoder(Operation.CHAT).content_type == b"application/x-ndjson"


BROKEN = StreamBrokenError(FailureKind.RESET, "The reply broke off.")


def test_a_broken_stream_ends_with_an_error_that_openais_client_raises() -> None:
    (event,) = server_sent(openai_encoder(Operation.CHAT).broken(BROKEN))
    assert json.loads(event)["error"]["message"] == "The reply broke off."


def test_a_broken_stream_ends_with_an_error_that_ollamas_client_raises() -> None:
    line = ollama_encoder(Operation.CHAT).broken(BROKEN)
    assert line.endswith(b"\n")
    assert json.loads(line) == {"error": "The reply broke off."}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RequestRejectedError("d", field="messages.0"), "invalid_request_error"),
        (UnauthorizedError("d"), "authentication_error"),
        (ForbiddenError("d"), "permission_error"),
        (ModelNotFoundError("d", attempts=()), "not_found_error"),
        (NoBackendError("d", attempts=()), "server_error"),
        (BROKEN, "server_error"),
    ],
)
def test_an_error_is_told_in_each_dialects_own_form(error: AthenaError, kind: str) -> None:
    assert json.loads(codec(Dialect.OPENAI).encode_error(error)) == {
        "error": {"message": error.detail, "type": kind, "param": error.field, "code": error.code}
    }
    assert json.loads(codec(Dialect.OLLAMA).encode_error(error)) == {"error": error.detail}


@pytest.mark.parametrize("character", ["\u0085", "\u2028", "\u2029"])
def test_a_line_for_ollamas_callers_is_one_line_whoever_splits_it(character: str) -> None:
    line = ollama_encoder(Operation.CHAT).delta(Delta(text=f"before{character}after"))
    assert len(line.decode().splitlines()) == 1
    assert ollama.ChatResponse.model_validate_json(line).message.content == f"before{character}after"
