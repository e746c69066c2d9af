"""The router in front of a real Ollama and a real mlx_lm.server, each with a tiny model."""

import asyncio
import json
from typing import Any

import pytest

from athena.router.board import CAN
from athena.router.call import Call
from athena.router.errors import NeedWithoutHomeError
from athena.router.llm_router import LLMRouter
from athena.router.periods import Periods
from athena.router.types import Delta, Dialect, Finish, Operation
from tests.engines.server import EngineServer
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import until
from tests.router.test_dispatch import relayed

pytestmark = pytest.mark.engine

MESSAGES = [{"role": "user", "content": "What is 2+2?"}]


@pytest.mark.parametrize("engine", ["ollama", "mlx"])
async def test_a_real_engine_answers_in_every_way(bench: Bench, request: pytest.FixtureRequest, engine: str) -> None:
    server: EngineServer = request.getfixturevalue(f"{engine}_server")
    bench.registry.rows = [row(1, server.url, model=server.model, engine=engine)]
    # The same noise every time: by chance a random model writes eight tokens that are the first bytes of no character.
    asked: dict[str, Any] = {"model": server.model, "max_tokens": 8, "temperature": 0}
    async with LLMRouter(await bench.settings()) as router:
        for result in (
            await router.generate(prompt="What is 2+2?", **asked),
            await router.chat(messages=MESSAGES, **asked),
        ):
            assert result["backend"] == engine
            assert result["response"]
            assert 0 < result["completion_tokens"] <= 8
            assert result["prompt_tokens"] > 0
            assert result["tokens_per_second"] > 0
            assert result["finish_reason"] in {"stop", "length"}
        events = [event async for event in router.stream(messages=MESSAGES, events=True, **asked)]
        assert isinstance(events[-1], Finish)
        assert any(isinstance(event, Delta) and event.text for event in events)


async def test_tools_go_to_a_real_mlx_only_where_its_template_has_a_place_for_them(
    bench: Bench, mlx_server_without_tools: EngineServer, mlx_server: EngineServer
) -> None:
    servers = (mlx_server_without_tools, mlx_server)
    rows = [row(place, server.url, engine="mlx", priority=place) for place, server in enumerate(servers, 1)]
    services = await bench.router(*rows, periods=Periods(abilities_tried_after=0.0, abilities_within=60.0))
    await until(lambda: [gate.cells[CAN] > 0 for gate in services.gates] == [True, True], 60.0)
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}

    async def served(**more: object) -> int | None:
        body = {"model": "m", "messages": MESSAGES, "max_tokens": 4, "stream": True, **more}
        reply = await services.dispatcher.open(Call(Dialect.OPENAI, Operation.CHAT, json.dumps(body).encode()))
        await relayed(reply)
        return reply.target.backend.id

    assert await served() == 1
    assert await served(tools=[tool]) == 2
    await bench.registry.put(rows[0])
    await until(lambda: len(services.configuration.snapshot.routes["m"]) == 1)
    with pytest.raises(NeedWithoutHomeError, match=r"No backend of model m can do tools\."):
        await served(tools=[tool])
    assert await served() == 1


async def test_auto_goes_to_ollama_when_mlx_is_killed_and_back_when_it_returns(
    bench: Bench, mlx_server: EngineServer, ollama_server: EngineServer
) -> None:
    bench.registry.rows = [row(1, mlx_server.url, model=ollama_server.model, engine="auto", timeout_seconds=30)]
    async with LLMRouter(await bench.settings(ollama_url=ollama_server.url)) as router:

        async def who_answers() -> str:
            result = await router.generate(model=ollama_server.model, prompt="What is 2+2?", max_tokens=4)
            return str(result["backend"])

        assert await who_answers() == "mlx"
        mlx_server.kill()
        try:
            assert await who_answers() == "ollama"
        finally:
            await asyncio.to_thread(mlx_server.start)
        assert await who_answers() == "mlx"


async def test_leaving_a_stream_of_a_real_engine_lets_the_next_caller_in_at_once(
    bench: Bench, ollama_server: EngineServer
) -> None:
    bench.registry.rows = [row(1, ollama_server.url, model=ollama_server.model)]
    async with LLMRouter(await bench.settings()) as router:
        endless = router.stream(model=ollama_server.model, prompt="Tell me everything.", max_tokens=100_000)
        assert await anext(endless)
        await endless.aclose()
        async with asyncio.timeout(15):  # by default Ollama serves one at a time
            await router.generate(model=ollama_server.model, prompt="What is 2+2?", max_tokens=4)
