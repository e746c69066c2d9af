"""From a call to a reply: engines that fail in every way, and what the caller notices of it."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from athena.router.call import Call
from athena.router.dispatch import OpenReply
from athena.router.errors import (
    BackendError,
    FailureKind,
    ModelNotFoundError,
    NoBackendError,
    RequestRejectedError,
    StreamBrokenError,
)
from athena.router.services import RouterServices
from athena.router.types import BackendType, Delta, Dialect, Finish, Operation
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import (
    Asked,
    Behaviour,
    StandIn,
    busy,
    close_after_first_token,
    close_before_answer,
    close_before_first_token,
    empty_body,
    fail,
    gibberish,
    half_a_line,
    hang,
    hang_after_first_token,
    hang_before_first_token,
    missing,
    refused_url,
    reject,
    reply_to,
    reset_before_answer,
    serve,
    serve_like_mlx,
    until,
)

SAID = "".join(reply_to("hello"))


def call(dialect: Dialect = Dialect.OLLAMA, *, stream: bool = True, prompt: str = "hello", model: str = "m") -> Call:
    """Return a conversation of one turn."""
    said = "input" if dialect is Dialect.RESPONSES else "messages"
    body = {"model": model, "stream": stream, said: [{"role": "user", "content": prompt}]}
    return Call(dialect, Operation.CHAT, json.dumps(body).encode())


async def relayed(reply: OpenReply) -> bytes:
    """Return what a caller would get of a stream."""
    pieces: list[bytes] = []
    await reply.relay(pieces.append)
    return b"".join(pieces)


async def answer(services: RouterServices, asked: Call) -> str:
    """Return the text of a reply, however it comes."""
    reply = await services.dispatcher.open(asked)
    try:
        if not reply.passthrough:
            return "".join([event.text async for event in reply.events() if isinstance(event, Delta)])
        raw = reply.body or await relayed(reply)
    finally:
        reply.close()
    return text_of(raw)


def idle_at(services: RouterServices, engine: StandIn) -> list[int]:
    """Return how many connections to an engine wait for their next request."""
    origins = services.upstream._origins.items()
    return [len(origin.idle) for address, origin in origins if engine.url.endswith(f":{address.port}")]


def text_of(raw: bytes) -> str:
    """Return the text in a raw reply of either dialect, whole or not."""
    text = ""
    for line in raw.decode().splitlines():
        data = line.removeprefix("data: ")
        if not data.startswith("{"):
            continue
        value = json.loads(data)
        if "message" in value:
            text += value["message"]["content"]
        for choice in value.get("choices", ()):
            text += (choice.get("delta") or choice.get("message") or {}).get("content") or ""
    return text


COMBINATIONS = [
    (dialect, engine, stream)
    for dialect in Dialect
    for engine in ("ollama", "openai", "mlx")
    for stream in (True, False)
]


@pytest.mark.parametrize(("dialect", "engine", "stream"), COMBINATIONS)
async def test_every_caller_is_answered_by_every_engine(
    bench: Bench, dialect: Dialect, engine: str, stream: bool
) -> None:
    stand_in = await bench.engine(serve_like_mlx if engine == "mlx" else serve)
    services = await bench.router(row(1, stand_in.url, engine=engine))
    assert await answer(services, call(dialect, stream=stream)) == SAID
    await until(lambda: services.figures.pending()[1].requests == 1)
    assert services.figures.pending()[1].errors == 0
    assert services.figures.pending()[1].completion_tokens > 0


BEFORE_FIRST_BYTE = [
    close_before_answer,
    reset_before_answer,
    close_before_first_token,
    half_a_line,
    empty_body,
    missing,
    fail,
    busy,
    gibberish,
]
FAILING = [(engine, stream, how) for engine in BackendType for stream in (True, False) for how in BEFORE_FIRST_BYTE]
# These take their whole time limit, so not every combination is tried.
HANGING = [("ollama", True, hang), ("mlx", False, hang), ("openai", True, hang_before_first_token)]


@pytest.mark.parametrize(
    ("engine", "stream", "behaviour"),
    [
        pytest.param(engine, stream, behaviour, id=f"{engine}-{'stream' if stream else 'whole'}-{behaviour.__name__}")
        for engine, stream, behaviour in (*FAILING, *HANGING)
        if engine != BackendType.AUTO
    ],
)
async def test_an_engine_that_fails_before_its_first_token_is_replaced_by_the_next(
    bench: Bench, behaviour: Behaviour, engine: str, stream: bool
) -> None:
    broken, sound = await bench.engine(behaviour), await bench.engine()
    services = await bench.router(row(1, broken.url, engine=engine, timeout_seconds=1), row(2, sound.url, priority=1))
    assert await answer(services, call(stream=stream)) == SAID
    assert len(broken.asked) == 1
    figures = services.figures.pending()
    assert (figures[1].requests, figures[1].errors) == (1, 1)
    assert (figures[2].requests, figures[2].errors) == (1, 0)
    await until(lambda: broken.open_connections == sum(idle_at(services, broken)))


async def test_an_engine_that_is_not_there_is_replaced_by_the_next(bench: Bench) -> None:
    sound = await bench.engine()
    services = await bench.router(row(1, refused_url()), row(2, sound.url, priority=1))
    assert await answer(services, call()) == SAID


@pytest.mark.parametrize("behaviour", [close_after_first_token, hang_after_first_token])
async def test_a_whole_reply_that_breaks_in_the_middle_is_asked_elsewhere(bench: Bench, behaviour: Behaviour) -> None:
    broken, sound = await bench.engine(behaviour), await bench.engine()
    services = await bench.router(row(1, broken.url, engine="mlx", timeout_seconds=1), row(2, sound.url, priority=1))
    assert await answer(services, call(stream=False)) == SAID


@pytest.mark.parametrize("engine", ["ollama", "mlx"], ids=["passed-through", "translated"])
@pytest.mark.parametrize("behaviour", [close_after_first_token, hang_after_first_token])
async def test_a_stream_that_breaks_after_its_first_token_is_told_to_the_caller(
    bench: Bench, behaviour: Behaviour, engine: str
) -> None:
    broken, other = await bench.engine(behaviour), await bench.engine()
    services = await bench.router(row(1, broken.url, engine=engine, timeout_seconds=1), row(2, other.url, priority=1))
    with pytest.raises(StreamBrokenError, match=f"{engine} at {broken.url} broke off"):
        await answer(services, call())
    assert not other.asked
    assert services.figures.pending()[1].errors == 1
    await until(lambda: broken.open_connections == sum(idle_at(services, broken)))


async def test_an_error_in_the_middle_of_a_stream_is_told_to_the_caller(bench: Bench) -> None:
    async def breaks(asked: Asked) -> None:
        await asked.start()
        await asked.chunk(asked.piece("You "))
        await asyncio.sleep(0.02)
        await asked.chunk(b'{"error": "out of memory"}\n')
        await asked.send(b"0\r\n\r\n")

    engine = await bench.engine(breaks)
    services = await bench.router(row(1, engine.url))
    with pytest.raises(StreamBrokenError, match="error"):
        await answer(services, call())


async def test_a_request_that_is_wrong_is_not_tried_elsewhere_nor_held_against_the_engine(bench: Bench) -> None:
    strict, other = await bench.engine(reject), await bench.engine()
    services = await bench.router(row(1, strict.url), row(2, other.url, priority=1))
    with pytest.raises(RequestRejectedError, match="num_ctx"):
        await answer(services, call())
    assert not other.asked
    assert services.figures.pending() == {}


async def test_a_caller_without_an_engine_is_told_what_was_tried(bench: Bench) -> None:
    failing, closed = await bench.engine(fail), refused_url()
    services = await bench.router(row(1, failing.url), row(2, closed, priority=1))
    with pytest.raises(NoBackendError, match="out of memory") as caught:
        await answer(services, call())
    assert [where for where, _ in caught.value.attempts] == [f"ollama at {failing.url}", f"ollama at {closed}"]
    assert [what.partition(":")[0] for _, what in caught.value.attempts] == ["status", "refused"]
    assert caught.value.retry_after


async def test_a_model_that_ollama_does_not_have_is_not_found(bench: Bench) -> None:
    services = await bench.router(ollama_url=(await bench.engine(missing)).url)
    with pytest.raises(ModelNotFoundError):
        await answer(services, call())


async def test_a_disabled_backend_is_replaced_by_the_default_ollama(bench: Bench) -> None:
    disabled, default = await bench.engine(), await bench.engine()
    services = await bench.router(row(1, disabled.url, enabled=False), ollama_url=default.url)
    assert await answer(services, call()) == SAID
    assert (len(disabled.asked), len(default.asked)) == (0, 1)


def events(logs: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the log lines of one event, without their level."""
    return [
        {k: v for k, v in line.items() if k not in {"event", "log_level"}} for line in logs if line["event"] == name
    ]


async def test_auto_falls_back_to_the_default_ollama_and_says_so(bench: Bench) -> None:
    ollama, mlx = await bench.engine(), refused_url()
    services = await bench.router(row(1, mlx, engine="auto"), ollama_url=ollama.url)
    with capture_logs() as logs:
        assert await answer(services, call()) == SAID
    routed = [(line["model"], line["backend_type"], line["endpoint"]) for line in events(logs, "routing_llm_request")]
    assert routed == [("m", "mlx", mlx), ("m", "ollama", ollama.url)]
    (fallback,) = events(logs, "mlx_failed_falling_back_to_ollama")
    assert fallback["error"] == "Connection refused"
    (completed,) = events(logs, "llm_request_completed")
    assert (completed["model"], completed["backend_type"]) == ("m", "ollama")
    assert isinstance(completed["duration"], float)
    assert services.figures.pending()[1].requests == 2


@pytest.mark.parametrize("engine", ["ollama", "mlx"], ids=["passed-through", "translated"])
async def test_a_caller_who_leaves_ends_the_work_of_the_engine_at_once(bench: Bench, engine: str) -> None:
    stand_in = await bench.engine(hang_after_first_token)
    services = await bench.router(row(1, stand_in.url, engine=engine))
    reply = await services.dispatcher.open(call())
    assert stand_in.open_connections == 1
    started = time.monotonic()
    reply.close()
    reply.close()
    await until(lambda: stand_in.open_connections == 0)
    assert time.monotonic() - started < 0.1
    assert services.figures.pending() == {}


async def test_a_caller_who_leaves_before_the_first_token_is_no_failure(bench: Bench) -> None:
    stand_in = await bench.engine(hang)
    services = await bench.router(row(1, stand_in.url))
    waiting = asyncio.create_task(services.dispatcher.open(call()))
    await until(lambda: stand_in.open_connections == 1)
    waiting.cancel()
    await until(lambda: stand_in.open_connections == 0)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert services.figures.pending() == {}


async def test_an_engine_that_lingers_after_its_end_mark_has_served(bench: Bench) -> None:
    async def lingers(asked: Asked) -> None:
        await asked.start()
        await asked.chunk(asked.piece("hello") + asked.end())
        await asked.until_left()

    stand_in = await bench.engine(lingers)
    services = await bench.router(row(1, stand_in.url))
    reply = await services.dispatcher.open(call())
    await asyncio.wait_for(relayed(reply), 30)
    reply.close()
    assert services.figures.pending()[1].errors == 0
    assert services.figures.pending()[1].completion_tokens == 3


async def test_nothing_reaches_the_caller_before_the_first_token(bench: Bench) -> None:
    go_on = asyncio.Event()

    async def hesitates(asked: Asked) -> None:
        await asked.start()
        await asked.chunk(asked.piece(""))
        await go_on.wait()
        await asked.chunk(asked.piece("now") + asked.end())
        await asked.send(b"0\r\n\r\n")

    services = await bench.router(row(1, (await bench.engine(hesitates)).url))
    opening = asyncio.create_task(answer(services, call()))
    await asyncio.sleep(0.05)
    assert not opening.done()
    go_on.set()
    assert await opening == "now"


async def test_a_passed_through_stream_is_the_engines_own_bytes(bench: Bench) -> None:
    sent = b""

    async def serve_and_note(asked: Asked) -> None:
        nonlocal sent
        pieces = [asked.piece("a"), asked.piece("b")[:10], asked.piece("b")[10:], asked.end()]
        sent = b"".join(pieces)
        await asked.start("application/x-ndjson; charset=utf-8")
        for piece in pieces:
            await asked.chunk(piece)
            await asyncio.sleep(0.002)
        await asked.send(b"0\r\n\r\n")

    services = await bench.router(row(1, (await bench.engine(serve_and_note)).url))
    reply = await services.dispatcher.open(call())
    assert await relayed(reply) == sent
    assert reply.content_type == b"application/x-ndjson; charset=utf-8"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 3


async def test_a_translated_reply_ends_with_its_finish_and_keeps_the_connection(bench: Bench) -> None:
    engine = await bench.engine()
    services = await bench.router(row(1, engine.url, engine="openai"))
    for _ in range(5):
        reply = await services.dispatcher.open(call())
        last = [event async for event in reply.events()][-1]
        assert isinstance(last, Finish)
        assert last.usage.completion_tokens == 3
        reply.close()
        await asyncio.sleep(0.01)
    assert engine.connections == 1


async def test_timeouts_are_the_backends_own(bench: Bench) -> None:
    services = await bench.router(row(1, (await bench.engine(hang)).url, timeout_seconds=1))
    started = time.monotonic()
    with pytest.raises(NoBackendError, match="timeout: no answer within 1 s"):
        await answer(services, call())
    assert 0.9 < time.monotonic() - started < 1.5


async def test_a_call_that_no_engine_of_the_route_could_serve_in_full_is_rejected(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await bench.engine()
    services = await bench.router(row(1, engine.url))

    def unsuitable(*_: object) -> None:
        raise BackendError(FailureKind.UNSUITABLE, "it would ignore the tools")

    monkeypatch.setattr(type(services.dispatcher._engines[row(1, "").backend_type]), "render", unsuitable)
    with pytest.raises(RequestRejectedError, match="it would ignore the tools"):
        await answer(services, call())
    assert not engine.asked
    assert services.figures.pending() == {}
