"""A stream means the same however the network cuts it, for who reads it and for who only watches it pass."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.router.dialects import codec
from athena.router.dialects.lines import LINE_LIMIT
from athena.router.errors import BackendError, FailureKind
from athena.router.types import Delta, Dialect, Event, Finish, Operation, ToolCall, Usage

OPENAI, OLLAMA = Dialect.OPENAI, Dialect.OLLAMA


def sse(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def said(text: str) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]})


def line(**fields: object) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


FINISH = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
USAGE = sse({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}})
DONE = b"data: [DONE]\n\n"
CALL = {"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}}
REST = {"index": 0, "function": {"arguments": '{"city":"Zürich"}'}}
FIGURES = {"prompt_eval_count": 7, "eval_count": 2, "eval_duration": 4_000_000}

STREAMS: dict[str, tuple[Dialect, bytes]] = {
    "text": (OPENAI, said("Grüße 🌍") + said("!") + FINISH + USAGE + DONE),
    "carriage returns": (OPENAI, (said("Hi") + FINISH + DONE).replace(b"\n", b"\r\n")),
    "keep-alives": (OPENAI, b": keepalive 1/9\n\n" + said("Hi") + b": ping\n\n" + FINISH + USAGE + DONE),
    "several data lines": (OPENAI, b'data: {"choices": [\ndata: {"delta": {"content": "Hi"}}]}\n\n' + FINISH + DONE),
    "no space after the colon": (OPENAI, (said("Hi") + FINISH + USAGE + DONE).replace(b"data: ", b"data:")),
    "other fields": (OPENAI, b"event: message\nid: 5\n" + said("Hi") + b"retry: 9\n\n" + FINISH + DONE),
    "a tool call in fragments": (
        OPENAI,
        b"".join(sse({"choices": [{"delta": {"tool_calls": [part]}}]}) for part in (CALL, REST)) + FINISH + DONE,
    ),
    "a tool call and no finish": (OPENAI, sse({"choices": [{"delta": {"tool_calls": [CALL]}}]}) + DONE),
    "no empty line at the end": (OPENAI, said("Hi") + FINISH + b"data: [DONE]\n"),
    "two end marks": (OPENAI, said("Hi") + FINISH + DONE + DONE),
    "Ollama": (
        OLLAMA,
        line(message={"content": "Grüße 🌍"}, done=False) + line(message={"content": ""}, done=True, **FIGURES),
    ),
    "an Ollama tool call about an error": (
        OLLAMA,
        line(message={"content": "", "tool_calls": [{"function": {"name": "log", "arguments": {"error": "x"}}}]})
        + line(message={"content": ""}, done=True, **FIGURES),
    ),
    "a long context": (
        OLLAMA,
        line(response="Hi", done=False)
        + line(response="", done=True, done_reason="stop", context=list(range(1000, 4000)), **FIGURES),
    ),
}
BROKEN: dict[str, tuple[Dialect, bytes, FailureKind]] = {
    "no end mark": (OPENAI, said("Hi") + FINISH, FailureKind.EMPTY),
    "half a line": (OPENAI, said("Hi") + said("Ho")[:20], FailureKind.EMPTY),
    "nothing": (OPENAI, b"", FailureKind.EMPTY),
    "keep-alives and nothing else": (OPENAI, b": keepalive 1/9\n\n", FailureKind.EMPTY),
    "an error": (OPENAI, said("Hi") + sse({"error": {"message": "out of memory"}}), FailureKind.STATUS),
    "an error that ends properly": (OPENAI, said("Hi") + sse({"error": "out of memory"}) + DONE, FailureKind.STATUS),
    "no Ollama line is done": (OLLAMA, line(response="Hi", done=False), FailureKind.EMPTY),
    "an Ollama line in halves": (
        OLLAMA,
        line(response="Hi") + line(response="", done=True)[:-2],
        FailureKind.MALFORMED,
    ),
    "nothing of Ollama": (OLLAMA, b"", FailureKind.EMPTY),
    "an error of Ollama": (OLLAMA, line(response="Hi") + line(error="out of memory"), FailureKind.STATUS),
}


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(bounds) if start != end]


def read(dialect: Dialect, parts: Sequence[bytes]) -> list[Event]:
    reader = codec(dialect).reader(Operation.CHAT)
    events = [event for part in parts for event in reader.feed(part)]
    reader.end()
    return events


def watch(dialect: Dialect, parts: Sequence[bytes]) -> Usage | None:
    watching = codec(dialect).watch(Operation.CHAT)
    begun = [watching.feed(part) for part in parts]
    assert begun == sorted(begun), "a first token cannot be taken back"
    return watching.end()


def outcome(act: Callable[[Dialect, Sequence[bytes]], object], dialect: Dialect, parts: Sequence[bytes]) -> object:
    """Return what comes of it, or in which way it fails."""
    try:
        return act(dialect, parts)
    except BackendError as error:
        return error.kind


CUTS = st.lists(st.integers(0, 1 << 20), max_size=12)


@pytest.mark.parametrize("name", STREAMS)
@given(cuts=CUTS)
def test_a_stream_means_the_same_however_it_is_cut(name: str, cuts: list[int]) -> None:
    dialect, data = STREAMS[name]
    parts = pieces(data, cuts)
    assert read(dialect, parts) == read(dialect, [data])
    assert watch(dialect, parts) == watch(dialect, [data])


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_may_come_byte_by_byte(name: str) -> None:
    dialect, data = STREAMS[name]
    parts = [data[at : at + 1] for at in range(len(data))]
    assert read(dialect, parts) == read(dialect, [data])
    assert watch(dialect, parts) == watch(dialect, [data])


@pytest.mark.parametrize("name", ["text", "carriage returns", "no space after the colon", "a long context", "Ollama"])
@given(cuts=CUTS)
def test_a_watch_sees_the_end_with_the_last_byte_however_the_stream_is_cut(name: str, cuts: list[int]) -> None:
    dialect, data = STREAMS[name]
    parts = pieces(data, cuts)
    watching = codec(dialect).watch(Operation.CHAT)
    ended = []
    for part in parts:
        watching.feed(part)
        ended.append(watching.ended)
    assert ended == [False] * (len(parts) - 1) + [True]


def test_a_model_that_writes_of_the_end_does_not_end_its_stream() -> None:
    for dialect, parts in (
        (OPENAI, [said("Hi"), said("data: [DONE]\n\n"), b": [DONE]\n\n", said("[DONE]"), b"\n\n"]),
        (OLLAMA, [line(response="Hi"), line(response='"done":true'), line(response="true\n"), b"\n"]),
    ):
        watching = codec(dialect).watch(Operation.CHAT)
        for part in parts:
            watching.feed(part)
            assert not watching.ended


@pytest.mark.parametrize("name", BROKEN)
@given(cuts=CUTS)
def test_a_broken_stream_is_broken_however_it_is_cut(name: str, cuts: list[int]) -> None:
    dialect, data, kind = BROKEN[name]
    parts = pieces(data, cuts)
    assert outcome(read, dialect, parts) is kind
    assert outcome(watch, dialect, parts) is kind


def test_a_reader_and_a_watch_see_what_the_stream_says() -> None:
    events = read(*_one("text"))
    usage = Usage(prompt_tokens=7, completion_tokens=2)
    assert events == [Delta(text="Grüße 🌍"), Delta(text="!"), Finish(reason="length", usage=usage)]
    assert watch(*_one("text")) == usage
    assert read(*_one("a tool call in fragments"))[0] == Delta(
        tool_calls=(ToolCall(id="c1", name="weather", arguments='{"city":"Zürich"}'),)
    )
    assert isinstance(read(*_one("a tool call and no finish"))[0], Delta)
    assert sum(isinstance(event, Finish) for event in read(*_one("two end marks"))) == 1
    long = watch(*_one("a long context"))
    assert long == Usage(prompt_tokens=7, completion_tokens=2, completion_seconds=0.004)


def _one(name: str) -> tuple[Dialect, list[bytes]]:
    dialect, data = STREAMS[name]
    return dialect, [data]


def test_the_end_mark_counts_before_its_empty_line_has_come() -> None:
    reader = codec(OPENAI).reader(Operation.CHAT)
    assert isinstance(reader.feed(said("Hi") + FINISH + b"data: [DONE]\n")[-1], Finish)


def test_the_engines_own_words_are_told_when_a_stream_reports_an_error() -> None:
    for name in ("an error", "an error that ends properly", "an error of Ollama"):
        dialect, data, _ = BROKEN[name]
        for act in (read, watch):
            with pytest.raises(BackendError, match="out of memory"):
                act(dialect, [data])
    older = sse({"object": "error", "message": "out of memory", "code": 400})
    with pytest.raises(BackendError, match="out of memory"):
        read(OPENAI, [older, DONE])


def test_a_model_that_writes_about_errors_reports_none() -> None:
    text = '{"error": "x"} data: {"error": 1}'
    watch(OPENAI, [said("Hi"), said(text), FINISH, DONE])
    watch(OLLAMA, [line(response="Hi"), line(response=text), line(response="", done=True)])
    beginning, end = line(message={"tool_calls": [{"function": {"arguments": {"error": "x"}}}]}), line(done=True)
    at = beginning.index(b'{"error"')
    watch(OLLAMA, [line(response="Hi"), beginning[:at], beginning[at:], end])


@pytest.mark.parametrize("dialect", [OPENAI, OLLAMA])
def test_a_line_without_end_is_cut_off(dialect: Dialect) -> None:
    first = said("Hi") if dialect is OPENAI else line(response="Hi")
    endless = [b"x" * 65536] * (LINE_LIMIT // 65536 + 1)
    with pytest.raises(BackendError, match="more than"):
        read(dialect, [first, *endless])
    with pytest.raises(BackendError, match="more than"):
        watch(dialect, endless)


def test_an_event_of_data_lines_without_end_is_cut_off() -> None:
    with pytest.raises(BackendError, match="more than"):
        read(OPENAI, [b"data: " + b"x" * 60000 + b"\n"] * (LINE_LIMIT // 60000 + 1))


@given(dialect=st.sampled_from([OPENAI, OLLAMA]), data=st.binary(max_size=60), cuts=CUTS)
def test_bytes_that_are_no_stream_fail_in_one_way_only(dialect: Dialect, data: bytes, cuts: list[int]) -> None:
    for prefix in (b"", b"data: ", b'{"response": "'):
        for act in (read, watch):
            outcome(act, dialect, pieces(prefix + data + b"\n\n", cuts))
