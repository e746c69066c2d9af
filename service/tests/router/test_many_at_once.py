"""A thousand callers at once, engines that fail at random: nobody gets another's answer, nothing is left behind."""

import asyncio
from collections import Counter
from itertools import chain
from random import Random

import msgspec
import pytest
import uvloop

from athena.router.batch import Figure
from athena.router.errors import NoBackendError, StreamBrokenError
from athena.router.services import RouterServices
from athena.router.types import Dialect
from tests.router.conftest import opened
from tests.router.registry import row
from tests.router.standin import (
    Asked,
    Behaviour,
    busy,
    close_after_first_token,
    close_before_answer,
    close_before_first_token,
    empty_body,
    fail,
    half_a_line,
    hang_before_first_token,
    missing,
    reply_to,
    reset_before_answer,
    serve,
    until,
)
from tests.router.test_dispatch import answer, call

FAULTS = [
    busy,
    close_after_first_token,
    close_before_answer,
    close_before_first_token,
    empty_body,
    fail,
    half_a_line,
    hang_before_first_token,
    missing,
    reset_before_answer,
]
CALLS = 1000


def moody(random: Random) -> Behaviour:
    """Return a behaviour that fails every third time, in a random way."""

    async def behave(asked: Asked) -> None:
        await asyncio.sleep(random.random() * 0.02)
        await (random.choice(FAULTS) if random.random() < 1 / 3 else serve)(asked)

    return behave


async def one_call(services: RouterServices, number: int, random: Random) -> str:
    """Make one call and return how it ended; a wrong answer fails the test."""
    prompt = f"caller {number}"
    asked = call(random.choice(list(Dialect)), stream=random.random() < 0.5, prompt=prompt)
    waiting = asyncio.create_task(answer(services, asked))
    if random.random() < 0.05:
        await asyncio.sleep(random.random() * 0.03)
        waiting.cancel()
    try:
        text = await waiting
    except NoBackendError:
        return "none answered"
    except StreamBrokenError:
        return "broken"
    except asyncio.CancelledError:
        return "left"
    assert text == "".join(reply_to(prompt))
    return "answered"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_calls_with_random_faults_are_each_answered_or_told(seed: int) -> None:
    async def go() -> None:
        random = Random(seed)  # noqa: S311 - repeatable, nothing secret
        async with opened() as bench:
            engines = [await bench.engine(moody(random)) for _ in range(4)]
            rows = [
                row(number, engine.url, engine=kind, timeout_seconds=2, priority=number // 3, max_concurrency=CALLS)
                for number, (engine, kind) in enumerate(
                    zip(engines, ("ollama", "openai", "mlx", "ollama"), strict=True), 1
                )
            ]
            services = await bench.router(*rows)
            before = asyncio.all_tasks()
            ends = Counter(await asyncio.gather(*(one_call(services, number, random) for number in range(CALLS))))
            assert sum(ends.values()) == CALLS
            assert ends["answered"] > CALLS * 0.75
            assert ends["broken"] < CALLS * 0.1
            # What the figures say is what the callers saw; each batch counts once, however often it came.
            assert await services.figures.flush()
            batches = {batch["batch_id"]: batch["figures"] for batch in bench.api.batches}
            figures = msgspec.convert(list(chain.from_iterable(batches.values())), list[Figure])
            done = sum(figure.requests - figure.errors for figure in figures)
            assert ends["answered"] <= done <= ends["answered"] + ends["left"]
            # Nothing is left behind but connections that wait for their next request.
            idle = sum(len(origin.idle) for origin in services.upstream._origins.values())
            await until(lambda: len(services.upstream.connections) <= idle + 2)
            left = [task for task in asyncio.all_tasks() - before if "support/standin.py" not in repr(task)]
            assert left == []

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(go())
