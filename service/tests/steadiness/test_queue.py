"""The queue in front of a backend: no more at once than it may have, bounded, fair, and clear to who is refused."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.steadiness.world import Proxy, World, until, world
from tests.support.caller import OLLAMA_CHAT, OPENAI_CHAT, PATHS, Answer, Caller, question
from tests.support.faults.process import EngineProcess
from tests.support.faults.wire import reply_to
from tests.support.registry import backend

MODELS: dict[str, dict[str, object]] = {
    "two": {"backend_type": "openai", "max_concurrency": 2, "max_queue": 100},
    "ollama": {"backend_type": "ollama"},
    "mlx": {"backend_type": "mlx"},
    "short-queue": {"backend_type": "openai", "max_concurrency": 1, "max_queue": 2},
    "no-queue": {"backend_type": "openai", "max_concurrency": 1, "max_queue": 0},
    "measured": {"backend_type": "openai", "max_concurrency": 1, "max_queue": 10},
    "one": {"backend_type": "openai", "max_concurrency": 1, "max_queue": 100},
}


class Stage:
    """A proxy in front of one engine that counts."""

    def __init__(self, own: World) -> None:
        self.engine: EngineProcess = own.engine()
        rows = [
            backend(number, model, str(more["backend_type"]), self.engine.another_url(http10=model == "mlx"), **more)
            for number, (model, more) in enumerate(MODELS.items(), 1)
        ]
        self.proxy: Proxy = own.proxy(*rows)

    async def ask(self, model: str, prompt: str, *, path: str = OPENAI_CHAT, source: str = "127.0.0.1") -> Answer:
        """Ask once, from an address of this machine."""
        async with Caller(self.proxy.url, source=source) as caller:
            return await caller.ask(path, model, prompt)

    async def ask_many(
        self, model: str, prompts: list[str], *, path: str = OPENAI_CHAT, source: str = "127.0.0.1"
    ) -> list[Answer]:
        """Ask all at once."""
        return await asyncio.gather(*(self.ask(model, prompt, path=path, source=source) for prompt in prompts))

    async def occupy(self, model: str, seconds: float) -> asyncio.Task[Answer]:
        """Give the engine something to do; returns once it is at it."""
        task = asyncio.create_task(self.ask(model, f"busy [tokens=1 pause={seconds}]"))
        await until(lambda: self.engine.report().running == 1)
        return task


@pytest.fixture(scope="module")
def running_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with world(tmp_path_factory.mktemp("queue")) as own:
        yield Stage(own)


@pytest.fixture
def stage(running_stage: Stage) -> Stage:
    running_stage.engine.forget()
    return running_stage


@pytest.mark.parametrize(("model", "limit", "asked"), [("two", 2, 12), ("ollama", 1, 6), ("mlx", 8, 24)])
async def test_an_engine_never_has_more_at_once_than_it_may_have(
    stage: Stage, model: str, limit: int, asked: int
) -> None:
    prompts = [f"{model} {number} [tokens=2 pause=0.03]" for number in range(asked)]
    answers = await stage.ask_many(model, prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.text == "".join(reply_to(prompt)), answer
    report = stage.engine.report()
    assert report.most_running == limit
    assert sorted(report.prompts) == sorted(prompts)


@pytest.mark.parametrize(("model", "served"), [("short-queue", 3), ("no-queue", 1)])
@pytest.mark.parametrize("path", PATHS)
async def test_who_finds_the_queue_full_is_told_at_once_when_to_come_again(
    stage: Stage, model: str, served: int, path: str
) -> None:
    seconds: list[float] = []

    async def ask(number: int) -> Answer:
        began = time.monotonic()
        answer = await stage.ask(model, f"{number} [tokens=1 pause=0.15]", path=path, source=f"127.0.0.{number + 2}")
        if answer.status != 200:
            seconds.append(time.monotonic() - began)
        return answer

    answers = await asyncio.gather(*(ask(number) for number in range(8)))
    refused = [answer for answer in answers if answer.status != 200]
    assert sum(answer.complete for answer in answers) == served
    assert len(refused) == 8 - served
    for answer in refused:
        assert answer.status in {429, 503}
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.error
    assert min(seconds) < 0.15  # before the first reply
    assert stage.engine.report().most_running == 1


async def test_what_a_refused_caller_is_told_comes_from_the_measured_time_of_a_reply(stage: Stage) -> None:
    for _ in range(5):
        assert (await stage.ask("measured", "x [tokens=1 pause=0.2]")).complete
    answers = await asyncio.gather(
        *(stage.ask("measured", "x [tokens=1 pause=0.2]", source=f"127.0.0.{number}") for number in range(2, 20))
    )
    told = [int(answer.headers["retry-after"]) for answer in answers if answer.status != 200]
    assert len(told) == 18 - 11
    assert all(2 <= seconds <= 4 for seconds in told), told  # ten wait, each takes 0.2 s


async def test_a_caller_who_floods_does_not_keep_a_modest_one_waiting(stage: Stage) -> None:
    busy = await stage.occupy("one", 2.0)
    flood = asyncio.create_task(
        stage.ask_many("one", [f"flood {number} [tokens=1 pause=0.03]" for number in range(30)], source="127.0.0.2")
    )
    await until(lambda: stage.proxy.metric("athena_backend_queued", model="one") == 30)
    modest = await stage.ask_many("one", [f"modest {number} [tokens=1 pause=0.03]" for number in range(3)])
    assert all(answer.complete for answer in [*modest, *await flood, await busy])
    order = [prompt.split(" [")[0] for prompt in stage.engine.report().prompts]
    assert max(order.index(f"modest {number}") for number in range(3)) <= 8


async def test_long_prompts_do_not_starve_short_ones(stage: Stage) -> None:
    busy = await stage.occupy("one", 2.0)
    long = [f"{'long ' * 20_000}{number} [tokens=1 pause=0.03]" for number in range(8)]
    first = asyncio.create_task(stage.ask_many("one", long, source="127.0.0.2"))
    await until(lambda: stage.proxy.metric("athena_backend_queued", model="one") == 8)
    short = [f"short {number} [tokens=1 pause=0.03]" for number in range(8)]
    second = await stage.ask_many("one", short, source="127.0.0.3")
    assert all(answer.complete for answer in [*second, *await first, await busy])
    order = stage.engine.report().prompts
    waited_for_long = [sum(other.startswith("long") for other in order[: order.index(prompt)]) for prompt in short]
    assert max(waited_for_long) <= 3, waited_for_long


async def test_who_leaves_the_queue_never_reaches_the_engine(stage: Stage) -> None:
    busy = await stage.occupy("one", 2.0)
    callers = [Caller(stage.proxy.url) for _ in range(5)]
    for number, caller in enumerate(callers):
        await caller.send(OLLAMA_CHAT, question(OLLAMA_CHAT, "one", f"left {number}", stream=number % 2 == 0))
    await until(lambda: stage.proxy.metric("athena_backend_queued", model="one") == 5)
    for caller in callers:
        caller.leave()
    await until(lambda: stage.proxy.metric("athena_backend_queued", model="one") == 0, 1.5)
    assert (await busy).complete
    assert (await stage.ask("one", "after")).complete
    assert not [prompt for prompt in stage.engine.report().prompts if prompt.startswith("left")]


async def test_nobody_waits_for_ever_behind_an_engine_that_hangs(scene: World) -> None:
    engine = scene.engine("hang")
    row = backend(1, "m", "openai", engine.url, max_concurrency=1, max_queue=50, timeout_seconds=60)
    proxy = scene.proxy(row, QUEUE_SECONDS="1")
    began = time.monotonic()
    callers = [Caller(proxy.url) for _ in range(10)]
    waiting = [asyncio.create_task(caller.ask(OPENAI_CHAT, "m", f"{number}")) for number, caller in enumerate(callers)]
    done, _ = await asyncio.wait(waiting, timeout=2.5)
    assert time.monotonic() - began < 3
    assert len(done) >= 9  # one is with the engine
    for task in done:
        answer = task.result()
        assert answer.status in {429, 503}
        assert int(answer.headers["retry-after"]) >= 1
    for caller in callers:
        caller.leave()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert engine.report().most_running == 1
