"""What each engine is sent for a call, and what its answers mean."""

import json
from typing import Any

import pytest

from athena.router.body import LARGE
from athena.router.call import Call
from athena.router.engines import ENGINES, Rendered
from athena.router.errors import BackendError, FailureKind, RequestRejectedError
from athena.router.types import Backend, BackendType, Dialect, Message, Operation, Request, Sampling

BACKEND = Backend(
    model_name="m",
    backend_type=BackendType.AUTO,
    endpoint_url="http://engine.example.internal",
    max_tokens=99,
    temperature_default=0.25,
)
USER = [{"role": "user", "content": "Hi"}]
CHAT = {"model": "m", "messages": USER}
GENERATE = {"model": "m", "prompt": "Once"}
PNG = "iVBORw0KGgo="
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def call(dialect: Dialect, operation: Operation, body: dict[str, Any] | bytes | str) -> Call:
    if isinstance(body, dict):
        body = json.dumps(body)
    return Call(dialect, operation, body.encode() if isinstance(body, str) else body)


def openai(body: dict[str, Any] | bytes | str, operation: Operation = Operation.CHAT) -> Call:
    return call(Dialect.OPENAI, operation, body)


def ollama(body: dict[str, Any] | bytes | str, operation: Operation = Operation.CHAT) -> Call:
    return call(Dialect.OLLAMA, operation, body)


def render(engine: BackendType, asked: Call) -> Rendered:
    return ENGINES[engine].render(asked, BACKEND)


def sent(engine: BackendType, asked: Call) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs) or engine is not BackendType.MLX, "a field twice"
        return dict(pairs)

    fields: dict[str, Any] = json.loads(render(engine, asked).body, object_pairs_hook=once)
    return fields


def unsuitable(engine: BackendType, asked: Call) -> str:
    with pytest.raises(BackendError) as refusal:
        render(engine, asked)
    assert refusal.value.kind is FailureKind.UNSUITABLE
    assert refusal.value.lets_next_backend_try
    return refusal.value.detail


@pytest.mark.parametrize(
    ("engine", "chat", "generate"),
    [
        (BackendType.OLLAMA, "/api/chat", "/api/generate"),
        (BackendType.MLX, "/v1/chat/completions", "/v1/completions"),
        (BackendType.OPENAI, "/v1/chat/completions", "/v1/completions"),
    ],
)
@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.OLLAMA])
def test_every_engine_serves_callers_of_both_dialects(
    engine: BackendType, chat: str, generate: str, dialect: Dialect
) -> None:
    asked = render(engine, call(dialect, Operation.CHAT, CHAT))
    assert asked.path == chat
    assert render(engine, call(dialect, Operation.GENERATE, GENERATE)).path == generate
    assert asked.passthrough is (engine is not BackendType.MLX and ENGINES[engine].dialect is dialect)
    if not asked.passthrough:
        body = json.loads(asked.body)
        assert body["stream"] is True
        assert body["messages"] == USER
        assert body.get("stream_options", {"include_usage": True}) == {"include_usage": True}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_call_of_the_library_is_served_by_every_engine(engine: BackendType) -> None:
    asked = Call.of(Request(operation=Operation.CHAT, model="m", messages=[Message(role="user", content="Hi")]))
    rendered = render(engine, asked)
    assert not rendered.passthrough
    assert json.loads(rendered.body)["messages"] == USER


@pytest.mark.parametrize("engine", [BackendType.MLX, BackendType.OPENAI])
@pytest.mark.parametrize(
    ("said", "temperature", "max_tokens"),
    [({}, 0.25, 99), ({"num_predict": 5}, 0.25, 5), ({"temperature": 0}, 0, 99), ({"num_predict": -1}, 0.25, 99)],
)
def test_a_backends_defaults_hold_where_a_translated_request_says_nothing(
    engine: BackendType, said: dict[str, Any], temperature: float, max_tokens: int
) -> None:
    body = sent(engine, ollama(CHAT | {"options": said}))
    assert (body["temperature"], body["max_tokens"]) == (temperature, max_tokens)


@pytest.mark.parametrize(
    ("said", "temperature", "max_tokens"),
    [
        ("", 0.25, 99),
        (', "temperature": null, "max_tokens": null', 0.25, 99),
        (', "temperature": 0', 0, 99),
        (', "max_tokens": 5', 0.25, 5),
        (', "temperature": 1, "temperature": null', 0.25, 99),
        (', "max_tokens": null, "temperature": 1, "user": "null"', 1, 99),
        (', "stop": null', 0.25, 99),
    ],
)
def test_a_backends_defaults_hold_where_a_passed_through_openai_body_says_nothing(
    said: str, temperature: float, max_tokens: int
) -> None:
    text = '{ "model" : "m", "messages" : [{"role": "user", "content": "Hi"}]' + said + " } "
    body = sent(BackendType.OPENAI, openai(text))
    assert (body["temperature"], body["max_tokens"]) == (temperature, max_tokens)
    assert (body["model"], body["messages"]) == ("m", USER)


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ({}, {"temperature": 0.25, "num_predict": 99}),
        (
            {"options": {"temperature": 0, "num_predict": 5, "mirostat": 1}},
            {"temperature": 0, "num_predict": 5, "mirostat": 1},
        ),
        ({"options": {"temperature": None, "num_ctx": 8}}, {"temperature": 0.25, "num_predict": 99, "num_ctx": 8}),
        ({"options": {"temperature": 0}, "temperature": 1}, {"temperature": 1, "num_predict": 99}),
    ],
)
def test_what_an_openai_caller_says_in_ollamas_own_options_is_said(
    said: dict[str, Any], options: dict[str, Any]
) -> None:
    assert sent(BackendType.OLLAMA, openai(CHAT | said))["options"] == options


@pytest.mark.parametrize("field", ["images", "suffix", "raw", "context", "template"])
def test_what_ollama_takes_of_a_prompt_alone_is_refused_of_a_chat(field: str) -> None:
    said = {"images": [PNG], "suffix": "end", "raw": True, "context": [1], "template": "{{ .Prompt }}"}[field]
    assert f"would ignore {field}" in unsuitable(BackendType.OLLAMA, openai(CHAT | {field: said}))


def test_the_newer_name_of_max_tokens_keeps_the_default_out() -> None:
    assert "max_tokens" not in sent(BackendType.OPENAI, openai(CHAT | {"max_completion_tokens": 5}))
    body = sent(BackendType.OPENAI, openai(CHAT | {"max_completion_tokens": None}))
    assert body["max_tokens"] == 99


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("", {"temperature": 0.25, "num_predict": 99}),
        (', "options": null', {"temperature": 0.25, "num_predict": 99}),
        (', "options": {}', {"temperature": 0.25, "num_predict": 99}),
        (', "options": { "temperature" : null , "seed": 1}', {"temperature": 0.25, "num_predict": 99, "seed": 1}),
        (', "options": {"temperature": 0, "num_predict": null}', {"temperature": 0, "num_predict": 99}),
        (', "options": {"num_predict": -1}', {"temperature": 0.25, "num_predict": -1}),
        (', "options": {"seed": 1}, "options": null', {"temperature": 0.25, "num_predict": 99}),
        (', "options": null, "options": {"seed": 1}', {"temperature": 0.25, "num_predict": 99, "seed": 1}),
    ],
)
def test_a_backends_defaults_hold_where_a_passed_through_ollama_body_says_nothing(
    said: str, options: dict[str, Any]
) -> None:
    text = '\n{"model": "m", "keep_alive": 1e2, "messages": [{"role": "user", "content": "Hi"}]' + said + "}"
    body = sent(BackendType.OLLAMA, ollama(text))
    assert body["options"] == options
    assert (body["model"], body["keep_alive"], body["messages"]) == ("m", 100, USER)


@pytest.mark.parametrize(
    ("engine", "dialect", "body"),
    [
        (
            BackendType.OPENAI,
            Dialect.OPENAI,
            b' {"temperature":0, "max_tokens" :5,"x": null,"model":"m", "messages":[]}\n',
        ),
        (BackendType.OPENAI, Dialect.OPENAI, b'{"model":"m","max_completion_tokens":5,"temperature":1e0,"x":[1.10]}'),
        (
            BackendType.OLLAMA,
            Dialect.OLLAMA,
            b'{"model":"m","options":{"temperature":0.0,"num_predict":-2},"y":"\\u00e9"}',
        ),
    ],
)
def test_a_body_that_says_all_is_passed_on_to_the_byte(engine: BackendType, dialect: Dialect, body: bytes) -> None:
    assert render(engine, call(dialect, Operation.CHAT, body)).body == body


def test_fields_of_a_passed_through_body_keep_the_callers_spelling() -> None:
    text = '{"model": "m", "seed": 1.50e3, "metadata": {"a": "\\u00e9"}, "n": null, "messages": []}'
    body = render(BackendType.OPENAI, openai(text)).body
    assert b"1.50e3" in body
    assert b'{"a": "\\u00e9"}' in body


@pytest.mark.parametrize(
    ("engine", "dialect"), [(BackendType.OPENAI, Dialect.OPENAI), (BackendType.OLLAMA, Dialect.OLLAMA)]
)
def test_a_large_body_that_gets_defaults_is_not_copied(engine: BackendType, dialect: Dialect) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * LARGE}]}).encode()
    rendered = render(engine, call(dialect, Operation.CHAT, body))
    assert rendered.rest is not None
    assert rendered.rest.obj is body
    whole = json.loads(rendered.body + rendered.rest)
    assert "temperature" in (whole if dialect is Dialect.OPENAI else whole["options"])
    assert whole["messages"] == json.loads(body)["messages"]


@pytest.mark.parametrize("engine", [BackendType.OLLAMA, BackendType.OPENAI])
def test_a_wrong_default_field_of_a_passed_through_body_is_refused(engine: BackendType) -> None:
    asked = ollama(CHAT | {"options": 5}) if engine is BackendType.OLLAMA else openai(CHAT | {"temperature": "hot"})
    with pytest.raises(RequestRejectedError) as refusal:
        render(engine, asked)
    assert refusal.value.field == ("options" if engine is BackendType.OLLAMA else "temperature")


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.OLLAMA])
@pytest.mark.parametrize("model", ["m", "/models/m", "mlx-community/m"])
def test_mlx_hears_no_model_name_but_the_one_it_was_started_with(dialect: Dialect, model: str) -> None:
    assert sent(BackendType.MLX, call(dialect, Operation.CHAT, CHAT | {"model": model}))["model"] == "default_model"


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.OLLAMA])
def test_mlx_is_never_sent_a_null(dialect: Dialect) -> None:
    nulls = dict.fromkeys(
        ("temperature", "max_tokens", "top_p", "stop", "seed", "tools", "options", "format", "stream", "logit_bias")
    )
    body = sent(BackendType.MLX, call(dialect, Operation.CHAT, CHAT | nulls))
    assert body.keys() == {"model", "messages", "stream", "stream_options", "temperature", "max_tokens"}
    assert None not in body.values()


@pytest.mark.parametrize("engine", [BackendType.MLX, BackendType.OLLAMA])
def test_fields_that_change_nothing_keep_no_engine_away(engine: BackendType) -> None:
    fields = {"user": "u", "metadata": {"a": "b"}, "n": 1, "logprobs": False, "tool_choice": "auto", "store": False}
    assert sent(engine, openai(CHAT | fields))["messages"] == USER


@pytest.mark.parametrize("engine", [BackendType.MLX, BackendType.OLLAMA])
def test_an_engine_hears_of_no_tools_where_none_is_to_be_called(engine: BackendType) -> None:
    for tools in ([], [TOOL]):
        body = sent(engine, openai(CHAT | {"tools": tools, "tool_choice": "none"}))
        assert body["messages"] == USER
        assert not {"tools", "tool_choice"} & body.keys()


@pytest.mark.parametrize("engine", [BackendType.MLX, BackendType.OPENAI])
def test_fields_that_programs_send_empty_keep_no_engine_away(engine: BackendType) -> None:
    empty: dict[str, Any] = dict.fromkeys(("format", "suffix", "system", "template"), "")
    empty |= {"context": [], "images": [], "options": None}
    body = sent(engine, ollama(GENERATE | empty, Operation.GENERATE))
    assert body["prompt"] == "Once"
    assert not empty.keys() & body.keys()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (openai({"model": "m", "prompt": ""}, Operation.GENERATE), "empty prompt"),
        (openai({"model": "m", "prompt": [""]}, Operation.GENERATE), "empty prompt"),
        (ollama({"model": "m"}, Operation.GENERATE), "empty prompt"),
        (ollama({"model": "m", "keep_alive": 0}, Operation.GENERATE), "empty prompt"),
        (ollama({"model": "m"}), "message"),
        (ollama({"model": "m", "messages": None}), "message"),
        (ollama({"model": "m", "messages": [{"role": "user", "content": "Hi", "images": [PNG]}]}), "images"),
        (ollama(GENERATE | {"images": [PNG]}, Operation.GENERATE), "images"),
        (openai(CHAT | {"response_format": {"type": "json_object"}}), "response format"),
        (ollama(CHAT | {"format": {"type": "object"}}), "response format"),
        (openai(CHAT | {"tools": [TOOL], "tool_choice": "required"}), "tool_choice"),
        (openai(CHAT | {"n": 2}), "n"),
        (openai(CHAT | {"n": True}), "n"),
        (openai(CHAT | {"logprobs": True}), "logprobs"),
        (openai(CHAT | {"logit_bias": {"99999999": 1}}), "logit_bias"),
        (openai(CHAT | {"adapters": "x"}), "adapters"),
        (openai(CHAT | {"draft_model": "x"}), "draft_model"),
        (openai(CHAT | {"chat_template_kwargs": {"chat_template": ""}}), "chat_template"),
        (openai(CHAT | {"chat_template_kwargs": {"tokenize": False}}), "tokenize"),
        (ollama(CHAT | {"options": {"mirostat": 1}}), "options.mirostat"),
        (ollama(GENERATE | {"raw": True}, Operation.GENERATE), "raw"),
        (ollama(GENERATE | {"context": [1]}, Operation.GENERATE), "context"),
        (ollama(GENERATE | {"suffix": "end"}, Operation.GENERATE), "suffix"),
        (openai(CHAT | {"top_k": 100_000}), "top_k"),
    ],
)
def test_what_mlx_would_ignore_or_die_of_never_reaches_it(asked: Call, reason: str) -> None:
    assert reason in unsuitable(BackendType.MLX, asked)


def test_mlx_is_told_whether_the_model_should_think() -> None:
    for thinking in (True, False):
        asked = openai(CHAT | {"chat_template_kwargs": {"enable_thinking": thinking}})
        assert sent(BackendType.MLX, asked)["chat_template_kwargs"] == {"enable_thinking": thinking}


@pytest.mark.parametrize("field", ["n", "logprobs", "top_logprobs", "echo", "best_of"])
def test_an_openai_server_is_not_asked_for_what_a_caller_of_ollama_would_not_get(field: str) -> None:
    assert field in unsuitable(BackendType.OPENAI, ollama(CHAT | {field: 2}))


@pytest.mark.parametrize("engine", [BackendType.MLX, BackendType.OLLAMA])
def test_what_is_refused_is_named(engine: BackendType) -> None:
    with pytest.raises(BackendError) as refusal:
        render(engine, openai(CHAT | {"store": True, "audio": {"voice": "x"}}))
    assert refusal.value.field == "audio"
    assert "audio, store" in refusal.value.detail


def test_how_to_run_the_model_is_ollamas_own_affair_and_keeps_nobody_else_away() -> None:
    asked = ollama(CHAT | {"options": {"num_ctx": 4096, "num_gpu": 1}, "keep_alive": "5m"})
    assert "options" not in sent(BackendType.MLX, asked)
    assert "options" not in sent(BackendType.OPENAI, asked)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (openai(CHAT | {"n": 2}), "n"),
        (openai(GENERATE | {"logprobs": 2}, Operation.GENERATE), "logprobs"),
        (openai(CHAT | {"tool_choice": "required"}), "tool_choice"),
        (openai(CHAT | {"logit_bias": {"5": 1}}), "logit_bias"),
        (openai(GENERATE | {"echo": True}, Operation.GENERATE), "echo"),
    ],
)
def test_what_ollama_would_ignore_never_reaches_it(asked: Call, reason: str) -> None:
    assert f"ignore {reason}" in unsuitable(BackendType.OLLAMA, asked)


@pytest.mark.parametrize("more", [{"logprobs": True, "top_logprobs": 2}, {"top_logprobs": 2}, {"logprobs": True}])
def test_ollama_is_asked_how_likely_the_tokens_of_a_chat_are(more: dict[str, Any]) -> None:
    asked = sent(BackendType.OLLAMA, openai(CHAT | more))
    assert {name: asked.get(name) for name in ("logprobs", "top_logprobs")} == {
        "logprobs": True,
        "top_logprobs": more.get("top_logprobs"),
    }


def test_what_an_openai_server_would_ignore_never_reaches_it() -> None:
    asked = ollama(CHAT | {"options": {"mirostat": 1}, "template": "{{ .Prompt }}"})
    assert "options.mirostat, template" in unsuitable(BackendType.OPENAI, asked)


def test_a_library_call_may_carry_an_option_of_ollamas() -> None:
    asked = Call.of(
        Request(
            operation=Operation.GENERATE,
            model="m",
            prompt="Once",
            sampling=Sampling(temperature=0.0),
            extra={"options": {"num_ctx": 4096}, "keep_alive": "5m"},
        )
    )
    body = sent(BackendType.OLLAMA, asked)
    assert body["options"] == {"num_ctx": 4096, "temperature": 0.0, "num_predict": 99}
    assert body["keep_alive"] == "5m"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, FailureKind.REJECTED),
        (413, FailureKind.REJECTED),
        (422, FailureKind.REJECTED),
        (401, FailureKind.STATUS),
        (404, FailureKind.STATUS),
        (429, FailureKind.STATUS),
        (500, FailureKind.STATUS),
        (503, FailureKind.STATUS),
    ],
)
def test_an_engines_status_says_who_can_mend_it(engine: BackendType, status: int, kind: FailureKind) -> None:
    error = ENGINES[engine].failure(status, b'{"error": "no such thing"}')
    assert error is not None
    assert (error.kind, error.upstream_status) == (kind, status)
    assert "no such thing" in error.detail
    assert ENGINES[engine].failure(200, b"") is None


def test_a_model_of_ollama_that_lacks_tools_lets_the_next_backend_try() -> None:
    error = ENGINES[BackendType.OLLAMA].failure(400, b'{"error":"\\"m\\" does not support tools"}')
    assert error is not None
    assert error.kind is FailureKind.UNSUITABLE


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "too long", "type": "x"}}', "too long"),
        (b'{"detail": "too long"}', "too long"),
        (b'{"message": "too long", "object": "error"}', "too long"),
        (b"too long\n", "too long"),
        (b"[1]", "[1]"),
        (b"", "without a word"),
        (b"\xff" * 9, "\ufffd"),
        (b"[" * 64 * 1024, "status 500"),
        (b'{"error": ' + b'"x' * 9999, "status 500"),
    ],
)
def test_an_engines_own_words_are_handed_on_whatever_their_form(body: bytes, words: str) -> None:
    error = ENGINES[BackendType.OPENAI].failure(500, body)
    assert error is not None
    assert words in error.detail
    assert len(error.detail) <= 500
