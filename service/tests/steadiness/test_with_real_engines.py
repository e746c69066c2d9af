"""The same with a real Ollama and a real mlx_lm.server, which are killed, frozen, and left in the middle of a reply."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from tests.engines.server import EngineServer
from tests.steadiness.world import Proxy, World, until
from tests.support.caller import OLLAMA_TEXT, OPENAI_TEXT, Answer, Caller, ask, question
from tests.support.registry import backend

pytestmark = pytest.mark.engine

OUT_WITHIN = 10.0  # seconds
BACK_WITHIN = 20.0
WORK = 0.6  # seconds of processor time that show an engine at work
REAL, SPARE = "1", "2"


class Served:
    """A proxy whose first choice is a real engine, with a stand-in of the same type behind it."""

    def __init__(self, scene: World, engine: EngineServer, kind: str) -> None:
        self.engine = engine
        self.kind = kind
        limits = {"timeout_seconds": 120, "max_concurrency": 4, "max_queue": 100}
        spare = scene.engine(http10=kind == "mlx")
        self.proxy: Proxy = scene.proxy(
            backend(1, engine.model, kind, engine.url, priority=0, **limits),
            backend(2, engine.model, kind, spare.url, priority=1, **limits),
        )

    async def ask(self, number: int) -> Answer:
        """Ask for a few tokens, in both dialects, as a stream or not."""
        path, limit = (OPENAI_TEXT, {"max_tokens": 4}) if number % 2 else (OLLAMA_TEXT, {"options": {"num_predict": 4}})
        return await ask(self.proxy.url, path, self.engine.model, f"Tell me {number}", stream=number % 4 < 2, **limit)

    async def send_endless(self, caller: Caller) -> asyncio.StreamReader:
        """Ask for a reply that takes minutes: JSON that never closes of Ollama, the same for ever of MLX."""
        if self.kind == "mlx":
            more: dict[str, Any] = {"max_tokens": 100_000, "temperature": 0, "frequency_penalty": -2}
            return await caller.send(OPENAI_TEXT, question(OPENAI_TEXT, self.engine.model, "a", stream=True, **more))
        more = {"format": "json", "options": {"num_predict": 100_000}}
        return await caller.send(OLLAMA_TEXT, question(OLLAMA_TEXT, self.engine.model, "a", stream=True, **more))


@pytest.fixture(params=["ollama", "mlx"])
def served(request: pytest.FixtureRequest, scene: World) -> Served:
    """A proxy over one of the real engines."""
    kind: str = request.param
    return Served(scene, request.getfixturevalue(f"{kind}_server"), kind)


class Traffic:
    """Four callers who keep asking. `answers` are all answers so far, each with the seconds that it took."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.answers: list[tuple[Answer, float]] = []

    def serves(self, who: str, last: int = 8) -> bool:
        """Whether the newest answers were all given by one backend."""
        newest = [answer.backend for answer, _ in self.answers[-last:]]
        return len(newest) == last and set(newest) == {who}

    async def lane(self, lane: int) -> None:
        """Be one caller."""
        for number in range(lane, 1_000_000, 4):
            began = time.monotonic()
            answer = await self._served.ask(number)
            self.answers.append((answer, time.monotonic() - began))

    def check(self) -> None:
        """Every answer must be whole, or a stream that broke after its first token and says so."""
        for answer, _ in self.answers:
            told = answer.stream and answer.status == 200 and not answer.ended and answer.error
            assert answer.complete or told, answer
        broken = sum(not answer.complete for answer, _ in self.answers)
        assert broken <= 4  # those that were being written when it happened
        assert max(seconds for _, seconds in self.answers) < OUT_WITHIN


@asynccontextmanager
async def traffic(served: Served) -> AsyncIterator[Traffic]:
    """Ask for as long as the context is entered; a caller's failure is the test's."""
    callers = Traffic(served)
    async with asyncio.TaskGroup() as group:
        lanes = [group.create_task(callers.lane(lane)) for lane in range(4)]
        await until(lambda: callers.serves(REAL), 20)
        yield callers
        for lane in lanes:
            lane.cancel()
    callers.check()


async def test_a_real_engine_that_is_killed_under_requests_is_replaced_and_comes_back(served: Served) -> None:
    async with traffic(served) as callers:
        await asyncio.to_thread(served.engine.kill)
        try:
            await until(lambda: callers.serves(SPARE), OUT_WITHIN)
        finally:
            await asyncio.to_thread(served.engine.restart)
        await until(lambda: callers.serves(REAL), BACK_WITHIN)


async def test_a_real_engine_that_is_frozen_leaves_the_route_within_10_seconds_and_comes_back(served: Served) -> None:
    """The kernel goes on accepting connections for it: only that nothing is generated tells."""
    async with traffic(served) as callers:
        served.engine.freeze()
        try:
            await until(lambda: callers.serves(SPARE, 40), OUT_WITHIN)
            await asyncio.sleep(3)
            assert callers.serves(SPARE, 40)
        finally:
            served.engine.thaw()
        await until(lambda: callers.serves(REAL), BACK_WITHIN)


def has_worked(engine: EngineServer, since: float) -> bool:
    """Whether an engine has used a fair amount of processor time since it had used so much."""
    return engine.cpu_seconds() - since > WORK


async def at_work(served: Served) -> tuple[Caller, float]:
    """Return a caller whose reply the engine is writing, and how long it took to see that."""
    for _ in range(4):
        caller = Caller(served.proxy.url)
        reader = await served.send_endless(caller)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(200)
        used, began = served.engine.cpu_seconds(), time.monotonic()
        try:
            await until(partial(has_worked, served.engine, used), 8)
        except AssertionError:
            caller.leave()  # what a random model writes may end after all
        else:
            return caller, time.monotonic() - began
    raise AssertionError("the engine ended every reply early")


async def used_in(engine: EngineServer, seconds: float) -> float:
    """Return how much processor time an engine uses in the next so many seconds."""
    used = engine.cpu_seconds()
    await asyncio.sleep(seconds)
    return engine.cpu_seconds() - used


async def test_a_real_engine_stops_generating_when_its_caller_leaves(served: Served) -> None:
    caller, seconds = await at_work(served)
    caller.leave()
    await asyncio.sleep(0.3)
    # The proxy itself may ask for a token meanwhile, so one quiet stretch of three is enough; who writes on has none.
    stretches = [await used_in(served.engine, seconds) for _ in range(3)]
    assert min(stretches) < WORK / 2, stretches
    assert (await served.ask(1)).backend == REAL
