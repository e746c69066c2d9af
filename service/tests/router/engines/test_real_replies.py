"""Each kind of call, rendered for a real engine, sent to it, and its reply read."""

import json
from typing import Any

import httpx
import pytest

from athena.router.call import Call
from athena.router.dialects import codec
from athena.router.engines import ENGINES, Rendered
from athena.router.errors import FailureKind
from athena.router.types import Backend, BackendType, Delta, Dialect, Event, Finish, Operation
from tests.engines.server import EngineServer

pytestmark = pytest.mark.engine

USER = [{"role": "user", "content": "Why is the sky blue?"}]
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "Where?"},
    *USER,
]


PASSING_THROUGH = [BackendType.OLLAMA, BackendType.OPENAI]  # never from MLX


class Asked:
    """One of the real engines as the router sees it: its type, and a backend at its address."""

    def __init__(self, kind: BackendType, server: EngineServer, model: str) -> None:
        self.kind = kind
        self.engine = ENGINES[kind]
        self.server = server
        self.model = model
        self.backend = Backend(model_name="m", backend_type=kind, endpoint_url=server.url, max_tokens=9)

    def render(self, dialect: Dialect, operation: Operation, body: dict[str, Any]) -> Rendered:
        fields = {"model": self.model, **body}
        return self.engine.render(Call(dialect, operation, json.dumps(fields).encode()), self.backend)

    def post(self, path: str, body: bytes) -> httpx.Response:
        headers = {"content-type": "application/json"}
        return httpx.post(f"{self.server.url}{path}", content=body, headers=headers, timeout=60)

    def events(self, operation: Operation, rendered: Rendered) -> list[Event]:
        """Return what the engine streams, read piece by piece as it comes."""
        reader = codec(self.engine.dialect).reader(operation)
        events: list[Event] = []
        headers = {"content-type": "application/json"}
        url = f"{self.server.url}{rendered.path}"
        with httpx.stream("POST", url, content=rendered.body, headers=headers, timeout=60) as reply:
            assert reply.status_code == 200, reply.read()
            for data in reply.iter_raw():
                events += reader.feed(data)
        events += reader.end()
        return events


@pytest.fixture(params=[BackendType.OLLAMA, BackendType.MLX, BackendType.OPENAI])
def asked(request: pytest.FixtureRequest) -> Asked:
    """Ollama, MLX, and Ollama's OpenAI side as a server of OpenAI's API."""
    kind: BackendType = request.param
    server: EngineServer = request.getfixturevalue("mlx_server" if kind is BackendType.MLX else "ollama_server")
    return Asked(kind, server, server.model)


def other(kind: BackendType) -> Dialect:
    """Return the dialect whose callers an engine is not passed the bodies of."""
    return Dialect.OLLAMA if ENGINES[kind].dialect is Dialect.OPENAI else Dialect.OPENAI


def length(dialect: Dialect, tokens: int) -> dict[str, Any]:
    return {"max_tokens": tokens} if dialect is Dialect.OPENAI else {"options": {"num_predict": tokens}}


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (Operation.CHAT, {"messages": USER}),
        (Operation.CHAT, {"messages": CONVERSATION}),
        (Operation.CHAT, {"messages": [{"role": "user", "content": ""}]}),
        (Operation.GENERATE, {"prompt": "Once upon a time ☁"}),
        (Operation.GENERATE, {"prompt": " "}),
    ],
)
def test_a_translated_call_is_answered_with_events_a_proper_end_and_counts(
    asked: Asked, operation: Operation, body: dict[str, Any]
) -> None:
    dialect = other(asked.kind)
    rendered = asked.render(dialect, operation, body | length(dialect, 5))
    assert not rendered.passthrough
    *deltas, end = asked.events(operation, rendered)
    assert all(isinstance(delta, Delta) and (delta.text or delta.thinking) for delta in deltas)
    assert isinstance(end, Finish)
    assert end.reason in {"stop", "length"}
    assert end.usage.prompt_tokens > 0
    assert 0 < end.usage.completion_tokens <= 5
    if asked.kind is BackendType.OLLAMA:
        assert end.usage.completion_seconds is not None
        assert end.usage.completion_seconds > 0


@pytest.mark.parametrize("tokens", [1, 7])
def test_a_reply_is_as_long_as_was_asked_for(asked: Asked, tokens: int) -> None:
    dialect = other(asked.kind)
    body = {"messages": USER} | length(dialect, tokens)
    end = asked.events(Operation.CHAT, asked.render(dialect, Operation.CHAT, body))[-1]
    assert isinstance(end, Finish)
    if end.reason == "length":  # its noise may happen to end by itself
        assert end.usage.completion_tokens == tokens
    assert end.usage.completion_tokens <= tokens


def test_a_reply_is_as_long_as_the_backend_says_where_the_caller_does_not(asked: Asked) -> None:
    end = asked.events(Operation.CHAT, asked.render(other(asked.kind), Operation.CHAT, {"messages": USER}))[-1]
    assert isinstance(end, Finish)
    assert end.usage.completion_tokens <= 9


def test_all_ways_to_sample_are_taken(asked: Asked) -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["\n\n"], "max_tokens": 4}
    fields |= {"frequency_penalty": 0.5, "presence_penalty": -0.5}
    more = {"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
    ollamas = fields | {"num_predict": 4, "top_k": 20, "min_p": 0.05, "repeat_penalty": 1.1}
    del ollamas["max_tokens"]
    for dialect, said in ((Dialect.OPENAI, fields | more), (Dialect.OLLAMA, {"options": ollamas})):
        rendered = asked.render(dialect, Operation.CHAT, {"messages": USER, "stream": True, **said})
        reply = asked.post(rendered.path, rendered.body)
        assert reply.status_code == 200, reply.text
        reader = codec(asked.engine.dialect).reader(Operation.CHAT)
        assert isinstance(reader.feed(reply.content)[-1], Finish)


def test_a_conversation_with_tools_is_taken(asked: Asked) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"in": "Oslo"}'}}
    messages = [*USER, {"role": "assistant", "tool_calls": [call]}]
    messages += [{"role": "tool", "tool_call_id": "c1", "content": "rain"}, *USER]
    translated = Call(Dialect.OPENAI, Operation.CHAT, json.dumps({"model": asked.model, "messages": messages}).encode())
    rendered = asked.engine.render(Call.of(translated.request), asked.backend)
    assert isinstance(asked.events(Operation.CHAT, rendered)[-1], Finish)


@pytest.mark.parametrize("asked", PASSING_THROUGH, indirect=True)
@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.GENERATE])
def test_a_passed_through_stream_is_watched_to_its_end(asked: Asked, operation: Operation) -> None:
    dialect = ENGINES[asked.kind].dialect
    body: dict[str, Any] = {"messages": USER} if operation is Operation.CHAT else {"prompt": "Once"}
    rendered = asked.render(dialect, operation, body | {"stream": True} | length(dialect, 6))
    assert rendered.passthrough
    watch = codec(dialect).watch(operation)
    reader = codec(dialect).reader(operation)
    reply = asked.post(rendered.path, rendered.body)
    begun = [watch.feed(reply.content[at : at + 7]) for at in range(0, len(reply.content), 7)]
    assert begun[-1]
    assert not begun[0]
    end = reader.feed(reply.content)[-1]
    assert isinstance(end, Finish)
    usage = watch.end()
    if dialect is Dialect.OLLAMA:
        assert usage == end.usage
        assert 0 < end.usage.completion_tokens <= 6
    else:
        assert usage is None  # its caller did not ask for any


@pytest.mark.parametrize("asked", PASSING_THROUGH, indirect=True)
@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.GENERATE])
def test_a_passed_through_reply_tells_its_usage(asked: Asked, operation: Operation) -> None:
    dialect = ENGINES[asked.kind].dialect
    body: dict[str, Any] = {"messages": USER} if operation is Operation.CHAT else {"prompt": "Once"}
    rendered = asked.render(dialect, operation, body | {"stream": False})
    usage = codec(dialect).usage_of_reply(operation, asked.post(rendered.path, rendered.body).content)
    assert usage.prompt_tokens > 0
    assert 0 < usage.completion_tokens <= 9  # the backend's default


def test_ollama_holds_to_a_wanted_form(ollama_server: EngineServer) -> None:
    asked = Asked(BackendType.OLLAMA, ollama_server, ollama_server.model)
    schema = {"type": "object", "properties": {"sky": {"enum": ["blue"]}}, "required": ["sky"]}
    form = {"type": "json_schema", "json_schema": {"name": "sky", "schema": schema}}
    body = {"messages": USER, "response_format": form, "max_tokens": 60, "temperature": 0, "seed": 1}
    *deltas, end = asked.events(Operation.CHAT, asked.render(Dialect.OPENAI, Operation.CHAT, body))
    text = "".join(delta.text for delta in deltas if isinstance(delta, Delta))
    assert text.lstrip().startswith("{")
    assert isinstance(end, Finish)
    if end.reason == "stop":
        assert json.loads(text) == {"sky": "blue"}


def test_ollama_says_404_of_a_model_that_it_lacks(ollama_server: EngineServer) -> None:
    asked = Asked(BackendType.OLLAMA, ollama_server, "no-such-model")
    rendered = asked.render(Dialect.OPENAI, Operation.CHAT, {"messages": USER})
    reply = asked.post(rendered.path, rendered.body)
    error = asked.engine.failure(reply.status_code, reply.content)
    assert error is not None
    assert (error.upstream_status, error.kind) == (404, FailureKind.STATUS)
    assert "no-such-model" in error.detail


def test_ollama_says_that_a_model_lacks_tools(ollama_server: EngineServer) -> None:
    asked = Asked(BackendType.OLLAMA, ollama_server, ollama_server.model)
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    rendered = asked.render(Dialect.OPENAI, Operation.CHAT, {"messages": USER, "tools": [tool]})
    reply = asked.post(rendered.path, rendered.body)
    error = asked.engine.failure(reply.status_code, reply.content)
    assert error is not None
    assert (error.upstream_status, error.kind) == (400, FailureKind.UNSUITABLE)


def test_ollama_loads_a_model_without_writing_a_token(ollama_server: EngineServer) -> None:
    asked = Asked(BackendType.OLLAMA, ollama_server, ollama_server.model)
    rendered = asked.render(Dialect.OLLAMA, Operation.GENERATE, {})
    watch = codec(Dialect.OLLAMA).watch(Operation.GENERATE)
    watch.feed(asked.post(rendered.path, rendered.body).content)
    usage = watch.end()
    assert usage is not None
    assert usage.completion_tokens == 0


@pytest.mark.parametrize(
    ("options", "status"), [({"temperature": "hot"}, 500), ({"num_predict": 1.5}, 200), ({"nonsense": 1}, 200)]
)
def test_ollama_itself_is_careless_with_options(
    ollama_server: EngineServer, options: dict[str, Any], status: int
) -> None:
    asked = Asked(BackendType.OLLAMA, ollama_server, ollama_server.model)
    body = {"model": asked.model, "prompt": "a", "stream": False, "options": {"num_predict": 2} | options}
    assert asked.post("/api/generate", json.dumps(body).encode()).status_code == status
