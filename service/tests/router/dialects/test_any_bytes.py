"""Nothing that a caller or an engine sends is more than the code can take, however it is cut."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athena.router.call import Call
from athena.router.dialects import codec
from athena.router.engines import ENGINES
from athena.router.errors import BackendError, RequestRejectedError
from athena.router.types import (
    Backend,
    BackendType,
    Delta,
    Dialect,
    Finish,
    Message,
    Operation,
    Request,
    Sampling,
    ToolCall,
    Usage,
)
from tests.router.dialects.streams import read, watched

often = settings(max_examples=100, deadline=None, database=None, derandomize=True)

# Without lone surrogates, which UTF-8 has no form for.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = texts.filter(bool)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)

FIELDS = [
    *("messages", "prompt", "system", "tools", "options", "format", "response_format", "stop", "stream"),
    *("stream_options", "temperature", "max_tokens", "max_completion_tokens", "top_k", "top_p", "seed", "logit_bias"),
    *("think", "keep_alive", "chat_template_kwargs", "tool_choice", "n", "raw", "context", "images"),
]
PARTS = ["role", "content", "type", "text", "image_url", "url", "tool_calls", "function", "name", "arguments", "images"]
OPTIONS = ["temperature", "num_predict", "num_ctx", "stop", "seed", "top_k"]


def objects(names: list[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), values, max_size=4)


calls = st.fixed_dictionaries({"function": objects(PARTS, json_values)})
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system", "developer", "robot"])},
    optional={
        "content": json_values | st.lists(objects(PARTS, json_values | objects(PARTS, texts)), max_size=2),
        "tool_calls": st.lists(calls, max_size=2),
        "images": st.lists(texts, max_size=2),
    },
)
items = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning"]) | json_values},
    optional={"call_id": texts, "name": texts, "arguments": texts | st.just("{}"), "output": json_values | texts}
    | {"role": json_values, "content": json_values, "summary": json_values},
)
near_misses = st.fixed_dictionaries(
    {"model": words | json_values},
    optional=dict.fromkeys(FIELDS, json_values)
    | {"messages": st.lists(messages, max_size=3), "prompt": texts, "options": objects(OPTIONS, json_values)}
    | {"input": texts | st.lists(messages | items, max_size=4), "text": json_values, "reasoning": json_values},
)
BACKEND = Backend(model_name="m", backend_type=BackendType.AUTO, endpoint_url="http://e.example.internal", max_tokens=9)


def take(dialect: Dialect, operation: Operation, body: bytes) -> None:
    """Do all that the router does with a request; whatever leaves it for an engine is JSON."""
    try:
        call = Call(dialect, operation, body)
    except RequestRejectedError:
        return
    for engine in ENGINES.values():
        try:
            rendered = engine.render(call, BACKEND)
        except (RequestRejectedError, BackendError):
            continue
        if not rendered.passthrough:
            sent = json.loads(rendered.body)
            assert sent["stream"] is True or operation is Operation.EMBED
            assert None not in sent.values()
    try:
        _ = call.request
    except RequestRejectedError:
        return


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("dialect", Dialect)
@often
@given(body=near_misses)
def test_any_json_is_served_or_refused(dialect: Dialect, operation: Operation, body: dict[str, Any]) -> None:
    take(dialect, operation, json.dumps(body).encode())


@pytest.mark.parametrize("dialect", Dialect)
@often
@given(data=st.data())
def test_any_bytes_are_served_or_refused(dialect: Dialect, data: st.DataObject) -> None:
    said = b'[{"role": "user", "content": "Hi"}]'
    body = b'{"model": "m", "messages": %b, "input": %b, "options": {"stop": null}, "n": null}' % (said, said)
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, len(body)))
    take(dialect, Operation.CHAT, body[:start] + data.draw(st.binary(max_size=6)) + body[end:])
    take(dialect, Operation.CHAT, data.draw(st.binary(max_size=40)))


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("depth", [10, 500, 900, 940, 960, 980, 990, 1000, 100_000])
def test_nesting_of_any_depth_is_served_or_refused(dialect: Dialect, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    messages_field = '"messages": [{"role": "user", "content": "Hi"}]'
    arguments = json.dumps('{"a":' + deep + "}")
    called = f'{{"role": "assistant", "tool_calls": [{{"function": {{"name": "f", "arguments": {arguments}}}}}]}}'
    for fields in (
        f'{messages_field}, "tools": [{{"a": {deep}}}]',
        f'{messages_field}, "options": {{"a": {deep}}}',
        f'{messages_field}, "options": null, "x": {deep}',
        f'"messages": [{called}]',
    ):
        take(dialect, Operation.CHAT, f'{{"model": "m", {fields}}}'.encode())


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400, "-0", "-0.0", "1e-400", "9" * 30, "0.1e1"])
@pytest.mark.parametrize("dialect", Dialect)
def test_numbers_of_any_size_are_served_or_refused(dialect: Dialect, number: str) -> None:
    field = '"messages": [{"role": "user", "content": "Hi"}]'
    for fields in (
        f'{field}, "temperature": {number}, "options": {{"temperature": {number}}}',
        f'{field}, "max_tokens": {number}, "options": {{"num_predict": {number}}}',
        f'{field}, "seed": {number}, "options": {{"seed": {number}}}',
        f'{field}, "tools": [{{"a": {number}}}], "n": null',
        f'{field}, "options": {{"num_ctx": {number}}}',
    ):
        take(dialect, Operation.CHAT, f'{{"model": "m", {fields}}}'.encode())


@pytest.mark.parametrize("text", ["\\ud800", "a\\ud83d", "\\udc00\\ud800", "\\ud83d\\ude00", "\\u0000"])
@pytest.mark.parametrize("dialect", Dialect)
def test_half_a_character_is_served_or_refused(dialect: Dialect, text: str) -> None:
    take(dialect, Operation.CHAT, f'{{"model": "m", "messages": [{{"role": "user", "content": "{text}"}}]}}'.encode())
    take(dialect, Operation.GENERATE, f'{{"model": "m", "prompt": "Hi", "stop": ["{text}"]}}'.encode())


tool_calls = st.builds(
    ToolCall, id=words, name=words, arguments=st.dictionaries(texts, st.integers(), max_size=2).map(json.dumps)
)
deltas = st.builds(Delta, text=texts, thinking=texts)
replies = st.tuples(
    st.lists(deltas, max_size=4),
    st.lists(tool_calls, max_size=2).map(tuple),
    st.sampled_from(["stop", "length"]),
    st.integers(0, 2**31),
)


def written(dialect: Dialect, reply: tuple[Any, ...]) -> bytes:
    """Return a reply as an engine of the dialect streams it."""
    said, called, reason, tokens = reply
    encoder = codec(dialect).encoder(Operation.CHAT, "m")
    end = Finish(reason=reason, usage=Usage(prompt_tokens=1, completion_tokens=tokens))
    called_then = [encoder.delta(Delta(tool_calls=called))] if called else []
    return b"".join([encoder.start(), *map(encoder.delta, said), *called_then, encoder.finish(end)])


# Where to cut or disturb, in millionths of the stream: its length differs from run to run, for it tells the time.
places = st.integers(0, 10**6)
cuts = st.lists(places, max_size=8).map(sorted)
kinds = st.sampled_from(["whole", "crlf", "cut short", "error", "comments", "noise"])
disturbances = st.tuples(kinds, places, st.binary(max_size=5))


def cut(stream: bytes, where: list[int]) -> list[bytes]:
    ends = [place * len(stream) // 10**6 for place in where]
    return [stream[start:end] for start, end in pairwise([0, *ends, len(stream)])]


def kind_of(failure: BackendError | None) -> str | None:
    return failure.kind if failure else None


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.OLLAMA])
@often
@given(reply=replies, where=cuts)
def test_what_one_encodes_the_other_reads(dialect: Dialect, reply: tuple[Any, ...], where: list[int]) -> None:
    said, called, reason, tokens = reply
    heard = read(dialect, cut(written(dialect, reply), where))
    assert heard.failure is None
    *events, end = heard.events
    pieces = [event for event in events if isinstance(event, Delta)]
    assert "".join(piece.text for piece in pieces) == "".join(piece.text for piece in said)
    assert "".join(piece.thinking for piece in pieces) == "".join(piece.thinking for piece in said)
    assert [(made.name, json.loads(made.arguments)) for piece in pieces for made in piece.tool_calls] == [
        (made.name, json.loads(made.arguments)) for made in called
    ]
    assert isinstance(end, Finish)
    assert end.reason == ("tool_calls" if called and reason == "stop" else reason)
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (1, tokens)


def disturbed(dialect: Dialect, stream: bytes, disturbance: tuple[str, int, bytes]) -> bytes:
    """Return the stream as an engine, or the way from it, may give it as well: other line ends, cut short, in error."""
    kind, place, noise = disturbance
    at = place * (len(stream) - 1) // 10**6
    if kind == "cut short":
        return stream[:at]
    at = stream.find(b"\n", at) + 1
    at = at if at < len(stream.rstrip()) else 0  # never behind the end mark
    before, after = stream[:at], stream[at:]
    if dialect is Dialect.OPENAI:
        other = {
            "error": before + b'\ndata: {"error": "out of memory"}\n\n' + after,
            "comments": b": keepalive 0/9\n\n" + before + b": keepalive 9/9\n" + after,
        }
    else:
        other = {"error": before + b'{"error":"out of memory"}\n', "comments": before + b"\n" + after}
    return {"crlf": stream.replace(b"\n", b"\r\n"), "noise": before + noise + after, "whole": stream, **other}[kind]


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.OLLAMA])
@often
@given(reply=replies, disturbance=disturbances, where=cuts)
def test_a_stream_means_the_same_however_it_is_cut(
    dialect: Dialect, reply: tuple[Any, ...], disturbance: tuple[str, int, bytes], where: list[int]
) -> None:
    stream = disturbed(dialect, written(dialect, reply), disturbance)
    in_pieces = read(dialect, cut(stream, where))
    bytewise = read(dialect, [stream[i : i + 1] for i in range(len(stream))])
    assert kind_of(in_pieces.failure) == kind_of(bytewise.failure)
    # What came in one piece with a failure is not given out.
    assert in_pieces.events == bytewise.events[: len(in_pieces.events)]
    assert in_pieces.failure or len(in_pieces.events) == len(bytewise.events)


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.OLLAMA])
@often
@given(reply=replies, disturbance=disturbances, where=cuts)
def test_a_watch_agrees_with_a_reader(
    dialect: Dialect, reply: tuple[Any, ...], disturbance: tuple[str, int, bytes], where: list[int]
) -> None:
    stream = disturbed(dialect, written(dialect, reply), disturbance)
    heard, seen = read(dialect, [stream]), watched(dialect, cut(stream, where))
    if heard.failure is None:
        assert seen.failure is None
        end = heard.events[-1]
        assert isinstance(end, Finish)
        assert seen.usage == end.usage
        assert seen.begun or not stream.endswith(b"\n")
    elif seen.failure is None:
        # After the first token, a watch does not read every line: what is broken in the middle, the caller sees.
        assert seen.begun
        assert disturbance[0] == "noise"


options = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 2),
    max_tokens=st.none() | st.integers(1, 2**31 - 1),
    top_p=st.none() | st.floats(0, 1),
    top_k=st.none() | st.integers(0, 100),
    min_p=st.none() | st.floats(0, 1),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=st.none() | st.lists(texts, max_size=3),
    frequency_penalty=st.none() | st.floats(-2, 2),
    presence_penalty=st.none() | st.floats(-2, 2),
    repeat_penalty=st.none() | st.floats(0, 2),
)
turns = st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=texts)
asked = st.builds(
    Request,
    operation=st.just(Operation.CHAT),
    model=st.just("m"),
    stream=st.booleans(),
    messages=st.lists(turns, min_size=1, max_size=3),
    sampling=options,
    tools=st.lists(st.dictionaries(words, texts, max_size=2), max_size=2),
    response_schema=st.none() | st.just({}) | st.dictionaries(words, texts, min_size=1, max_size=2),
)


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.OLLAMA])
@often
@given(request=asked)
def test_a_request_keeps_its_meaning_on_the_way_through_a_dialect(dialect: Dialect, request: Request) -> None:
    translator = codec(dialect)
    request.include_usage = dialect is Dialect.OLLAMA or request.stream
    assert translator.decode_request(Operation.CHAT, translator.encode_request(request)) == request
