"""The library as programs use it."""

import asyncio
import json
from typing import Any

import pytest

from athena.router import llm_router
from athena.router.errors import NoBackendError, RequestRejectedError, StreamBrokenError
from athena.router.llm_router import LLMRouter
from athena.router.types import Finish
from shared.llm_router import get_llm_router
from shared.ollama_client import OllamaClient
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import (
    Asked,
    StandIn,
    close_after_first_token,
    hang_after_first_token,
    refused_url,
    reply_to,
    serve_like_mlx,
    until,
)

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
SAID = "".join(reply_to("hello"))


async def test_generate_tells_the_answer_and_where_it_came_from(bench: Bench) -> None:
    engine = await bench.engine(serve_like_mlx)
    bench.registry.rows = [row(1, engine.url, engine="mlx")]
    async with LLMRouter(await bench.settings()) as router:
        result = await router.generate(model="m", prompt="hello", temperature=0.2, seed=7)
    assert result["response"] == SAID
    assert result["backend"] == "mlx"
    assert result["model"] == "m"
    assert result["endpoint"] == engine.url
    assert (result["prompt_tokens"], result["completion_tokens"]) == (3, 3)
    assert result["tokens_per_second"] > 0
    assert 0 < result["latency_ms"] < 2000
    assert result["finish_reason"] == "stop"
    asked = engine.asked[0].json
    assert (asked["temperature"], asked["seed"], asked["stream"]) == (0.2, 7, True)


async def test_chat_gives_the_next_turn_as_well(bench: Bench) -> None:
    engine = await bench.engine()
    bench.registry.rows = [row(1, engine.url)]
    async with LLMRouter(await bench.settings()) as router:
        result = await router.chat(model="m", messages=MESSAGES, max_tokens=5)
    assert result["message"] == {"role": "assistant", "content": SAID}
    assert result["response"] == SAID
    assert result["backend"] == "ollama"
    assert [message["role"] for message in engine.asked[0].json["messages"]] == ["system", "user"]
    assert engine.asked[0].json["options"]["num_predict"] == 5


async def test_stream_gives_text_piece_by_piece_or_events(bench: Bench) -> None:
    bench.registry.rows = [row(1, (await bench.engine()).url)]
    async with LLMRouter(await bench.settings()) as router:
        assert [piece async for piece in router.stream(model="m", prompt="hello")] == reply_to("hello")
        assert [piece async for piece in router.stream(model="m", messages=MESSAGES)] == reply_to("hello")
        last = [event async for event in router.stream(model="m", prompt="hello", events=True)][-1]
        assert isinstance(last, Finish)
        assert last.usage.completion_tokens == 3


async def test_leaving_a_stream_stops_the_engine(bench: Bench) -> None:
    engine = await bench.engine(hang_after_first_token)
    bench.registry.rows = [row(1, engine.url)]
    async with LLMRouter(await bench.settings()) as router:
        pieces = router.stream(model="m", prompt="hello")
        assert await anext(pieces) == "You "
        await pieces.aclose()
        await until(lambda: engine.open_connections == 0, 0.1)


async def test_a_stream_that_breaks_says_so(bench: Bench) -> None:
    bench.registry.rows = [row(1, (await bench.engine(close_after_first_token)).url)]
    async with LLMRouter(await bench.settings()) as router:
        pieces = router.stream(model="m", prompt="hello")
        assert await anext(pieces) == "You "
        with pytest.raises(StreamBrokenError):
            await anext(pieces)


async def test_a_model_without_any_engine_is_an_error_that_says_what_was_tried(bench: Bench) -> None:
    async with LLMRouter(await bench.settings()) as router:
        with pytest.raises(NoBackendError, match="Connection refused"):
            await router.generate(model="m", prompt="hello")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"prompt": "hello", "messages": MESSAGES},
        {"prompt": "hello", "temprature": 0.1},
        {"prompt": "hello", "temperature": "hot"},
        {"messages": ["hello"]},
        {"messages": [{"content": "hello"}]},
    ],
)
async def test_arguments_that_make_no_sense_are_rejected_before_anything_is_sent(arguments: dict[str, Any]) -> None:
    router = LLMRouter()
    with pytest.raises(RequestRejectedError):
        await anext(router.stream(model="m", events=False, **arguments))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a process without an Admin API, with a router that nobody has used yet."""
    monkeypatch.setenv("ADMIN_API_URL", refused_url())
    monkeypatch.delenv("ADMIN_API_TOKEN", raising=False)
    monkeypatch.setattr(llm_router, "_shared", [])
    return monkeypatch


def test_one_router_serves_a_process_through_several_event_loops(environment: pytest.MonkeyPatch) -> None:
    async def ask() -> tuple[str, LLMRouter]:
        async with StandIn() as ollama:
            port = int(ollama.url.rpartition(":")[2])
            environment.setenv("OLLAMA_URL", f"http://127.0.0.1:{port}")
            router = get_llm_router()
            router._settings = None
            result = await router.generate(model="m", prompt="hello")
            assert len(asyncio.all_tasks()) > 1
            return result["response"], router

    routers = set()
    for _ in range(3):
        text, router = asyncio.run(ask())
        assert text == SAID
        routers.add(router)
        assert all(here.services is None for here in router._loops.values())  # closed along with its loop
    assert len(routers) == 1


def test_calls_that_start_together_share_one_set_of_connections(environment: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        async with StandIn() as ollama:
            environment.setenv("OLLAMA_URL", ollama.url)
            router = get_llm_router()
            services = await asyncio.gather(*(router.services() for _ in range(10)))
            assert len(set(map(id, services))) == 1
            results = await asyncio.gather(*(router.generate(model="m", prompt=str(n)) for n in range(10)))
            assert [result["response"] for result in results] == ["".join(reply_to(str(n))) for n in range(10)]
            await router.close()
            assert asyncio.all_tasks() == {asyncio.current_task(), *ollama.tasks}
            assert (await router.generate(model="m", prompt="hello"))["response"] == SAID  # a later call starts anew

    asyncio.run(ask())


async def test_the_old_client_still_answers_and_names_its_successor(environment: pytest.MonkeyPatch) -> None:
    async with StandIn() as ollama:
        with pytest.warns(DeprecationWarning, match="get_llm_router"):
            client = OllamaClient(url=ollama.url)
        async with client:
            reply = await client.chat(model="m", messages=MESSAGES, temperature=0.1)
            assert reply["message"] == {"role": "assistant", "content": SAID}
            assert (reply["done"], reply["done_reason"], reply["eval_count"]) == (True, "stop", 3)
            reply = await client.generate("m", "hello", options={"num_predict": 9, "num_ctx": 4096})
            assert reply["response"] == SAID
            pieces = [piece async for piece in await client.chat(model="m", messages=MESSAGES, stream=True)]
            assert "".join(piece["message"]["content"] for piece in pieces) == SAID
            assert [piece["done"] for piece in pieces] == [False, False, False, True]
            pieces = [piece async for piece in await client.generate("m", "hello", stream=True)]
            assert "".join(piece["response"] for piece in pieces) == SAID
    assert ollama.asked[0].json["options"]["temperature"] == 0.1
    assert ollama.asked[1].json["options"]["num_predict"] == 9
    assert ollama.asked[1].json["options"]["num_ctx"] == 4096


async def test_tool_calls_are_part_of_the_next_turn(bench: Bench) -> None:
    async def use_a_tool(asked: Asked) -> None:
        message = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}],
        }
        await asked.start()
        await asked.chunk(json.dumps({"model": "m", "message": message, "done": False}).encode() + b"\n")
        await asked.chunk(asked.end())
        await asked.send(b"0\r\n\r\n")

    bench.registry.rows = [row(1, (await bench.engine(use_a_tool)).url)]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    async with LLMRouter(await bench.settings()) as router:
        result = await router.chat(model="m", messages=MESSAGES, tools=tools)
    (call,) = result["message"]["tool_calls"]
    assert (call["name"], json.loads(call["arguments"])) == ("f", {"x": 1})
