"""Streams of engines: read into events, or watched while they pass through."""

import json
from typing import Any

import pytest

from athena.router.dialects import codec
from athena.router.dialects.lines import LINE_LIMIT
from athena.router.errors import BackendError, FailureKind
from athena.router.types import Delta, Dialect, Event, Finish, Operation, ToolCall, Usage
from tests.router.dialects.streams import Heard, read, watched


def sse(*events: dict[str, Any] | str) -> bytes:
    """Return server-sent events as an engine of OpenAI's dialect writes them."""
    return b"".join(
        b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n" for event in events
    )


def lines(*objects: dict[str, Any]) -> bytes:
    """Return lines as Ollama writes them."""
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in objects)


def piece(text: str = "", reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text} | delta, "finish_reason": reason}]}


def fragment(index: int | None, **function: Any) -> dict[str, Any]:
    call = {"index": index, "id": function.pop("id", None), "function": function}
    return piece(tool_calls=[call])


USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
}
COUNTED = Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1)
ENDED = {"model": "m", "done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2}
ENDED |= {"eval_duration": 10**9, "prompt_eval_duration": 5 * 10**8, "load_duration": 1}
OLLAMA_COUNTED = Usage(
    prompt_tokens=3, completion_tokens=2, load_seconds=1e-9, prompt_seconds=0.5, completion_seconds=1.0
)


def said(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}, "done": False}


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param(
            sse(piece(""), piece("Hi "), piece("☁"), piece("", "stop"), USAGE, "[DONE]"),
            [Delta(text="Hi "), Delta(text="☁"), Finish(reason="stop", usage=COUNTED)],
            id="text and usage",
        ),
        pytest.param(
            b": keepalive 0/9\n\n: keepalive 9/9\n\nretry: 5\nid: 7\nevent: x\n" + sse(piece("Hi", "length"), "[DONE]"),
            [Delta(text="Hi"), Finish(reason="length", usage=Usage())],
            id="comments and other fields are no token",
        ),
        pytest.param(
            sse(piece("Hi"), piece("", "eos_token"), "[DONE]"),
            [Delta(text="Hi"), Finish(reason="stop", usage=Usage())],
            id="an unknown reason to end",
        ),
        pytest.param(
            sse(piece(reasoning="Hm"), piece(reasoning_content="so"), piece("Hi"), piece("", "stop"), "[DONE]"),
            [Delta(thinking="Hm"), Delta(thinking="so"), Delta(text="Hi"), Finish(reason="stop", usage=Usage())],
            id="thoughts by either name",
        ),
        pytest.param(
            sse(
                fragment(0, id="c1", name="weather", arguments=""),
                fragment(1, id="c2", name="now", arguments="{"),
                fragment(0, arguments='{"in": '),
                fragment(0, arguments='"Oslo"}'),
                fragment(1, arguments="}"),
                piece("", "tool_calls"),
                "[DONE]",
            ),
            [
                Delta(
                    tool_calls=(
                        ToolCall(id="c1", name="weather", arguments='{"in": "Oslo"}'),
                        ToolCall(id="c2", name="now", arguments="{}"),
                    )
                ),
                Finish(reason="tool_calls", usage=Usage()),
            ],
            id="tool calls in fragments",
        ),
        pytest.param(
            sse(fragment(0, id="c1", name="now", arguments="{}"), "[DONE]"),
            [
                Delta(tool_calls=(ToolCall(id="c1", name="now", arguments="{}"),)),
                Finish(reason="stop", usage=Usage()),
            ],
            id="tool calls of an engine that gives no reason to end",
        ),
        pytest.param(
            sse({"choices": [{"index": 0, "text": "Once", "finish_reason": None}]}, "[DONE]"),
            [Delta(text="Once"), Finish(reason="stop", usage=Usage())],
            id="a legacy completion",
        ),
        pytest.param(
            b'data: {"choices": [{"delta":\r\ndata: {"content": "Hi"}}]}\r\n\r\ndata:[DONE]\r\n\r\n',
            [Delta(text="Hi"), Finish(reason="stop", usage=Usage())],
            id="CRLF, an event of two lines, no space after the colon",
        ),
        pytest.param(
            sse(piece("Hi"), {"choices": [{"delta": None}], "usage": None, "error": None}, "[DONE]", piece("late")),
            [Delta(text="Hi"), Finish(reason="stop", usage=Usage())],
            id="nulls, and what comes after the end",
        ),
        pytest.param(
            sse(piece("Hi"), "[DONE]").rstrip(b"\n") + b"\n",
            [Delta(text="Hi"), Finish(reason="stop", usage=Usage())],
            id="no blank line after the end mark",
        ),
    ],
)
def test_a_stream_of_openais_dialect_becomes_events(stream: bytes, events: list[Event]) -> None:
    heard = read(Dialect.OPENAI, [stream])
    assert heard == Heard(events=events)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param(
            lines(said(""), said("Hi "), said("☁"), said("") | ENDED),
            [Delta(text="Hi "), Delta(text="☁"), Finish(reason="stop", usage=OLLAMA_COUNTED)],
            id="a chat",
        ),
        pytest.param(
            lines({"response": "Once", "done": False}, {"response": "", "done": True, "done_reason": "length"}),
            [Delta(text="Once"), Finish(reason="length", usage=Usage())],
            id="a continued prompt; zeros are left out",
        ),
        pytest.param(
            lines({"message": {"content": "", "thinking": "Hm"}}, {"thinking": "so", "response": ""}, {"done": True}),
            [Delta(thinking="Hm"), Delta(thinking="so"), Finish(reason="stop", usage=Usage())],
            id="thoughts",
        ),
        pytest.param(
            lines(
                {"message": {"content": "", "tool_calls": [{"function": {"name": "w", "arguments": {"in": "Oslo"}}}]}},
                {"message": {"content": ""}, "done": True, "done_reason": "stop"},
            ),
            [
                Delta(tool_calls=(ToolCall(name="w", arguments='{"in":"Oslo"}'),)),
                Finish(reason="tool_calls", usage=Usage()),
            ],
            id="tool calls",
        ),
        pytest.param(
            b'\r\n{"message":{"content":"Hi"}}\r\n\r\n{"done":true}\r\n',
            [Delta(text="Hi"), Finish(reason="stop", usage=Usage())],
            id="CRLF and blank lines",
        ),
        pytest.param(
            lines({"response": "", "done": True, "done_reason": "load"}),
            [Finish(reason="stop", usage=Usage())],
            id="a model that was merely loaded",
        ),
    ],
)
def test_a_stream_of_ollamas_dialect_becomes_events(stream: bytes, events: list[Event]) -> None:
    assert read(Dialect.OLLAMA, [stream]) == Heard(events=events)


OPENAI_ERROR = sse({"error": {"message": "out of memory", "code": 500}})
OLLAMA_ERROR = lines({"error": "out of memory"})


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("dialect", "first", "error"),
    [
        (Dialect.OPENAI, sse(piece("Hi")), OPENAI_ERROR),
        (Dialect.OPENAI, sse(piece("Hi")), OPENAI_ERROR + sse("[DONE]")),  # as vLLM ends it
        (Dialect.OPENAI, sse(piece("Hi")), sse({"error": "out of memory"})),
        (Dialect.OLLAMA, lines(said("Hi")), OLLAMA_ERROR),
    ],
)
def test_an_error_under_status_200_is_told_in_the_engines_words(
    dialect: Dialect, first: bytes, error: bytes, *, begun: bool
) -> None:
    stream = [first, error] if begun else [error]
    heard, seen = read(dialect, stream), watched(dialect, stream)
    for outcome in (heard, seen):
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.STATUS
        assert "out of memory" in outcome.failure.detail
    assert seen.begun is begun


@pytest.mark.parametrize(
    ("dialect", "stream"),
    [
        (Dialect.OPENAI, OPENAI_ERROR + sse("[DONE]")),
        (Dialect.OLLAMA, OLLAMA_ERROR),
    ],
)
def test_an_error_that_comes_in_two_pieces_is_found(dialect: Dialect, stream: bytes) -> None:
    first = sse(piece("Hi")) if dialect is Dialect.OPENAI else lines(said("Hi"))
    for cut in range(len(stream)):
        seen = watched(dialect, [first, stream[:cut], stream[cut:]])
        assert seen.failure is not None, cut


@pytest.mark.parametrize(
    ("dialect", "stream"),
    [
        (Dialect.OPENAI, b""),
        (Dialect.OPENAI, b": keepalive 0/9\n\n"),
        (Dialect.OPENAI, sse(piece("Hi"))),
        (Dialect.OPENAI, sse(piece("Hi"), piece("", "stop"), USAGE)),
        (Dialect.OPENAI, sse(piece("Hi")) + b"data: [DON"),
        (Dialect.OPENAI, sse(piece("Hi")) + b'data: {"choices": [{"del'),
        (Dialect.OPENAI, sse(piece("[DONE]"))),
        (Dialect.OLLAMA, b""),
        (Dialect.OLLAMA, b"\n"),
        (Dialect.OLLAMA, lines(said("Hi"))),
        (Dialect.OLLAMA, lines(said('{"done":true}'))),
        (Dialect.OLLAMA, lines(said("Hi")) + b'{"message":{"content":""},"do'),
        (Dialect.OLLAMA, lines(said("Hi")) + b'{"model":"m","done":true,"eval_count":2'),
        (
            Dialect.OLLAMA,
            lines({"message": {"tool_calls": [{"function": {"name": "f", "arguments": {"done": True}}}]}}),
        ),
    ],
)
def test_an_end_without_end_mark_is_a_failure(dialect: Dialect, stream: bytes) -> None:
    assert read(dialect, [stream]).failure is not None
    assert watched(dialect, [stream]).failure is not None


@pytest.mark.parametrize(
    ("dialect", "whole"),
    [
        (Dialect.OPENAI, sse(piece("Hi"), "[DONE]")),
        (Dialect.OLLAMA, lines(said("Hi"), said("") | ENDED)),
    ],
)
def test_an_end_mark_without_its_line_end_counts(dialect: Dialect, whole: bytes) -> None:
    heard = read(dialect, [whole.rstrip(b"\n")])
    assert heard.failure is None
    assert isinstance(heard.events[-1], Finish)
    assert watched(dialect, [whole.rstrip(b"\n")]).failure is None


@pytest.mark.parametrize(
    ("dialect", "stream"),
    [
        (Dialect.OPENAI, b"data: <html>\n\n"),
        (Dialect.OPENAI, b'data: {"choices": 5}\n\n'),
        (Dialect.OPENAI, b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n'),
        (Dialect.OPENAI, b"data: " + b"[" * 5000 + b"\n\n"),
        (Dialect.OLLAMA, b"<html>\n"),
        (Dialect.OLLAMA, b"[]\n"),
        (Dialect.OLLAMA, b'{"message": {"content": "\xff"}}\n'),
        (Dialect.OLLAMA, b'{"response": ' + b"[" * 5000 + b"\n"),
    ],
)
def test_bytes_that_are_not_the_dialect_are_a_failure_of_the_engine(dialect: Dialect, stream: bytes) -> None:
    for outcome in (read(dialect, [stream]), watched(dialect, [stream])):
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.MALFORMED


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.OLLAMA])
def test_a_line_without_end_is_not_kept_for_ever(dialect: Dialect) -> None:
    endless = [b"data: " + b"x" * (LINE_LIMIT // 2)] * 3
    for outcome in (read(dialect, endless), watched(dialect, endless)):
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.MALFORMED


def test_a_watch_sees_no_token_before_there_is_one() -> None:
    watch = codec(Dialect.OPENAI).watch(Operation.CHAT)
    assert not watch.feed(b": keepalive 0/9\n\n")
    assert not watch.feed(sse(piece("")))
    assert not watch.feed(sse(piece("Hi"))[:-9])
    assert watch.feed(sse(piece("Hi"))[-9:])
    watch = codec(Dialect.OLLAMA).watch(Operation.CHAT)
    assert not watch.feed(lines(said("")))
    assert not watch.feed(lines(said("Hi"))[:-1])
    assert watch.feed(b"\n")


def test_usage_is_found_however_long_the_stream_was() -> None:
    stream = [sse(piece("x" * size)) for size in (1, 100, 5000, 100_000) for _ in range(20)]
    seen = watched(Dialect.OPENAI, [*stream, sse(piece("", "stop")), sse(USAGE), sse("[DONE]")])
    assert (seen.failure, seen.usage) == (None, COUNTED)
    assert watched(Dialect.OPENAI, [b"".join(stream) + sse(USAGE, "[DONE]")]).usage == COUNTED
    assert watched(Dialect.OPENAI, [*stream, sse("[DONE]")]).usage is None


@pytest.mark.parametrize("tokens", [1, 1000, 30_000])
@pytest.mark.parametrize("size", [1000, 65_536, 10**7])
def test_ollamas_figures_are_found_behind_a_context_of_any_length(tokens: int, size: int) -> None:
    last = {"model": "m", "response": "", "done": True, "context": list(range(tokens)), "eval_count": 2}
    stream = lines({"response": "Hi", "done": False}) + lines(last)
    seen = watched(Dialect.OLLAMA, [stream[start : start + size] for start in range(0, len(stream), size)])
    assert (seen.failure, seen.usage) == (None, Usage(completion_tokens=2))


@pytest.mark.parametrize(
    ("dialect", "body", "usage"),
    [
        (Dialect.OPENAI, {"choices": [{"message": {"content": "Hi"}}], "usage": USAGE["usage"]}, COUNTED),
        (Dialect.OPENAI, {"choices": [{"text": "Hi"}]}, Usage()),
        (Dialect.OLLAMA, said("Hi") | ENDED, OLLAMA_COUNTED),
    ],
)
def test_a_whole_reply_tells_its_usage(dialect: Dialect, body: dict[str, Any], usage: Usage) -> None:
    assert codec(dialect).usage_of_reply(Operation.CHAT, json.dumps(body).encode()) == usage


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.OLLAMA])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", FailureKind.MALFORMED),
        (b"{}", FailureKind.EMPTY),
        (b'{"choices": [], "done": false}', FailureKind.EMPTY),
        (b'{"error": "out of memory"}', FailureKind.STATUS),
        (b"<html>", FailureKind.MALFORMED),
        (b'{"model": "\xff", "message": {"content": "\xff"}}', FailureKind.MALFORMED),
    ],
)
def test_what_is_no_whole_reply_is_a_failure(dialect: Dialect, body: bytes, kind: FailureKind) -> None:
    with pytest.raises(BackendError) as failure:
        codec(dialect).usage_of_reply(Operation.CHAT, body)
    assert failure.value.kind is kind
