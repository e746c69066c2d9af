"""The caller leaves: the engine must feel it at once, in whatever phase the request is, so that it stops working."""

import asyncio
from collections.abc import Iterator
from itertools import product

import pytest

from athena.proxy.forward import FIRST_TOKEN_WITHIN_SECONDS
from tests.steadiness.world import Proxy, World, until, world
from tests.support.caller import OLLAMA_CHAT, OPENAI_CHAT, Caller, question
from tests.support.faults.behaviours import BLACK_HOLE
from tests.support.faults.process import EngineProcess
from tests.support.registry import backend

ENGINES = ("openai", "mlx", "ollama")
WAYS = tuple(product(ENGINES, (OPENAI_CHAT, OLLAMA_CHAT), (False, True)))


class Stage:
    """A proxy with one engine behind it, in every engine type."""

    def __init__(self, own: World) -> None:
        self.engine: EngineProcess = own.engine()
        rows = [
            backend(number, kind, kind, self.engine.another_url(http10=kind == "mlx"), max_concurrency=100)
            for number, kind in enumerate(ENGINES, 1)
        ]
        self.proxy: Proxy = own.proxy(*rows)

    async def send_all(self, stack: list[Caller], mode: str) -> dict[str, Caller]:
        """Send one request in every way; returns the callers by their prompts."""
        callers = {}
        for kind, path, stream in WAYS:
            prompt = f"{mode} {kind} {path} {stream}"
            caller = callers[prompt] = Caller(self.proxy.url)
            stack.append(caller)
            await caller.send(path, question(path, kind, prompt, stream=stream))
        return callers

    def cancelled(self) -> float:
        """Return how many requests the proxy has counted as left by their callers."""
        return self.proxy.metric("gen_ai_server_request_duration_seconds_count", error_type="cancelled")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with world(tmp_path_factory.mktemp("departure")) as own:
        yield Stage(own)


@pytest.fixture
def callers() -> Iterator[list[Caller]]:
    """Callers whose connections are closed with the test."""
    callers: list[Caller] = []
    yield callers
    for caller in callers:
        caller.leave()


@pytest.mark.parametrize("mode", ["hang", "hang_after_head", "hang_after_first_token"])
async def test_every_caller_that_leaves_is_felt_by_the_engine(stage: Stage, callers: list[Caller], mode: str) -> None:
    """These replies have no end of their own: what ends at the engine was cancelled."""
    before = stage.cancelled()
    stage.engine.become(mode)
    stage.engine.forget()
    asked = await stage.send_all(callers, mode)
    await until(lambda: stage.engine.report().running == len(WAYS))
    await asyncio.sleep(0.1)
    for caller in asked.values():
        caller.leave()
        await asyncio.sleep(0.01)
    await until(lambda: stage.engine.report().running == 0)
    assert stage.engine.report().left.keys() == asked.keys()
    await until(lambda: stage.cancelled() - before == len(WAYS))
    assert stage.proxy.metric("http_server_active_requests") == 0


@pytest.mark.slow
async def test_a_caller_that_gives_up_after_longer_than_is_promised_counts_as_a_late_first_token(
    stage: Stage, callers: list[Caller]
) -> None:
    def first_tokens(suffix: str) -> float:
        return stage.proxy.metric(f"gen_ai_server_time_to_first_token_seconds_{suffix}")

    before = stage.cancelled(), first_tokens("count"), first_tokens("sum")
    stage.engine.become("hang")
    stage.engine.forget()
    await stage.send_all(callers, "hang")
    await until(lambda: stage.engine.report().running == len(WAYS))
    early, late = callers[:4], callers[4:]
    for caller in early:
        caller.leave()
    await asyncio.sleep(FIRST_TOKEN_WITHIN_SECONDS + 0.1)
    for caller in late:
        caller.leave()
    await until(lambda: stage.cancelled() - before[0] == len(WAYS))
    streams = sum(stream for _, _, stream in WAYS[4:])
    assert first_tokens("count") - before[1] == streams
    assert first_tokens("sum") - before[2] > streams * FIRST_TOKEN_WITHIN_SECONDS


async def test_a_caller_that_leaves_while_the_engine_cannot_be_reached_leaves_nothing_behind(
    stage: Stage, callers: list[Caller]
) -> None:
    before = stage.cancelled()
    stage.engine.become(BLACK_HOLE)
    await stage.send_all(callers, BLACK_HOLE)
    await until(lambda: stage.proxy.metric("http_server_active_requests") == len(WAYS))
    for caller in callers:
        caller.leave()
    await until(lambda: stage.proxy.metric("http_server_active_requests") == 0, 1.0)
    stage.engine.become("serve")
    stage.engine.forget()
    await asyncio.sleep(0.2)
    assert not [prompt for prompt in stage.engine.report().prompts if prompt.startswith(BLACK_HOLE)]
    assert stage.cancelled() - before == len(WAYS)
