"""Engines that requests find silent or owing answers, as a router sees that watches them: doubt, and what ends it."""

import asyncio
import time

import msgspec
import pytest

from athena.router.board import CHECKED_AT, GENERATED_AT, SAMPLES, SERVICE_SECONDS
from athena.router.errors import NoBackendError
from athena.router.periods import Periods
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import Asked, serve, until
from tests.router.test_dispatch import SAID, answer, call
from tests.router.test_watch import Waiting
from tests.router.watching import Engine, Watched, gate_of, prompts_at, state_of

LONG_DOUBT = Periods(tick=0.01, suspect_after=0.05, check_within=1.0)


async def test_an_engine_in_doubt_gets_no_more_requests_while_there_is_another(bench: Bench, watched: Watched) -> None:
    hung, sound = await bench.engine(behaviour := Engine()), await bench.engine(Engine())
    behaviour.answers = False
    services = await watched(
        row(1, hung.url, engine="openai"), row(2, sound.url, engine="openai", priority=1), periods=LONG_DOUBT
    )
    first = asyncio.create_task(answer(services, call()))
    await until(lambda: services.gates.any_in_doubt)
    assert [await answer(services, call()) for _ in range(20)] == [SAID] * 20
    assert state_of(services, hung) == "closed", "it may still turn out to be sound"
    assert prompts_at(hung) == 1
    assert await first == SAID
    assert state_of(services, hung) == "open"
    await until(lambda: not services.gates.any_in_doubt)  # it is noted with the next tick


async def test_an_engine_in_doubt_is_asked_where_the_others_are_all_at_work(bench: Bench, watched: Watched) -> None:
    hung, busy = await bench.engine(behaviour := Engine()), await bench.engine(other := Engine())
    behaviour.answers = False
    services = await watched(
        row(1, hung.url, engine="openai"),
        row(2, busy.url, engine="openai", priority=1, max_concurrency=1),
        periods=LONG_DOUBT,
    )
    first = asyncio.create_task(answer(services, call()))
    await until(lambda: services.gates.any_in_doubt)
    other.thinks = 0.3
    second, third = (asyncio.create_task(answer(services, call())) for _ in range(2))
    await until(lambda: prompts_at(hung) == 2)
    assert prompts_at(busy) == 1
    for waiting in (first, second, third):
        assert await waiting == SAID


async def test_a_doubt_ends_when_the_engine_answers(bench: Bench, watched: Watched) -> None:
    slow, other = await bench.engine(behaviour := Engine()), await bench.engine(Engine())
    behaviour.thinks = 0.3
    services = await watched(
        row(1, slow.url, engine="openai"), row(2, other.url, engine="openai", priority=1), periods=LONG_DOUBT
    )
    first = asyncio.create_task(answer(services, call()))
    await until(lambda: any(gate.cells[CHECKED_AT] for gate in services.gates))
    await until(lambda: not services.gates.any_in_doubt)
    assert await answer(services, call()) == SAID
    assert await first == SAID
    assert not prompts_at(other)


async def test_an_engine_in_doubt_is_asked_where_there_is_no_other(bench: Bench, watched: Watched) -> None:
    engine = await bench.engine(behaviour := Engine())
    behaviour.answers = False
    services = await watched(row(1, engine.url, engine="openai"), periods=LONG_DOUBT)
    first = asyncio.create_task(answer(services, call()))
    await until(lambda: services.gates.any_in_doubt)
    second = asyncio.create_task(answer(services, call()))
    await until(lambda: prompts_at(engine) == 2)
    for waiting in (first, second):
        waiting.cancel()
    await asyncio.gather(first, second, return_exceptions=True)


# Nobody but the requests themselves raises suspicion, and what is in doubt stays so.
ALARMS = Periods(suspect_after=60.0, check_every=60.0, check_within=30.0, doubt=60.0, generate_every=60.0)


async def test_one_request_of_many_meets_an_engine_that_has_never_answered(bench: Bench, watched: Watched) -> None:
    hung, sound = await bench.engine(behaviour := Engine()), await bench.engine(Engine())
    behaviour.answers = False
    services = await watched(
        row(1, hung.url, engine="openai", max_concurrency=100),
        row(2, sound.url, engine="openai", priority=1, max_concurrency=100),
        periods=ALARMS,
    )
    first = asyncio.create_task(answer(services, call()))
    assert await asyncio.gather(*(answer(services, call()) for _ in range(64))) == [SAID] * 64
    assert prompts_at(hung) == 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_few_requests_meet_an_engine_that_begins_to_hang_under_load(bench: Bench, watched: Watched) -> None:
    hung, sound = await bench.engine(behaviour := Engine()), await bench.engine(Engine())
    services = await watched(
        row(1, hung.url, engine="openai", max_concurrency=100),
        row(2, sound.url, engine="openai", priority=1, max_concurrency=100),
        periods=msgspec.structs.replace(ALARMS, suspect_after=0.0, owed_after=0.0, asked_apart=0.0),
    )
    for _ in range(10):
        assert await answer(services, call()) == SAID
    served = prompts_at(hung)
    assert served
    await until(lambda: not services.gates.any_in_doubt)
    behaviour.answers = False
    waiting = [asyncio.create_task(answer(services, call())) for _ in range(64)]
    await until(lambda: sum(task.done() for task in waiting) >= 62)
    assert 1 <= prompts_at(hung) - served <= 2, "the one that waits, and the one that found that it does"
    for task in waiting:
        task.cancel()
    assert (await asyncio.gather(*waiting, return_exceptions=True)).count(SAID) >= 62


async def test_few_requests_go_elsewhere_while_a_slow_engine_is_asked_whether_it_lives(
    bench: Bench, watched: Watched
) -> None:
    busy, other = await bench.engine(Engine()), await bench.engine(Engine())
    services = await watched(
        row(1, busy.url, engine="openai", max_concurrency=100),
        row(2, other.url, engine="openai", priority=1, max_concurrency=100),
        periods=msgspec.structs.replace(ALARMS, owed_after=0.0, asked_apart=1e9, suspect_again=1e9),
    )
    assert await answer(services, call()) == SAID  # the first question, since it had never answered
    await until(lambda: not services.gates.any_in_doubt)
    gate = gate_of(services, busy)
    now = services.gates.clock()
    for after in (0.0, 100.0, 200.0):
        gate.asked(now + after, Waiting(now + after, 4.0))
    assert not services.gates.any_in_doubt, "it answered the question, and is left alone for a while"


async def test_what_other_workers_are_answered_shows_that_an_engine_lives(bench: Bench, watched: Watched) -> None:
    engine, other = await bench.engine(Engine()), await bench.engine(Engine())
    services = await watched(
        row(1, engine.url, engine="openai", max_concurrency=100),
        row(2, other.url, engine="openai", priority=1),
        periods=msgspec.structs.replace(ALARMS, asked_apart=0.0),
    )
    assert await answer(services, call()) == SAID
    await until(lambda: not services.gates.any_in_doubt)
    gate = gate_of(services, engine)
    now = services.gates.clock()
    gate.owes_since = now  # of this worker alone
    gate.cells[GENERATED_AT] = now + 200.0
    gate.asked(now + 200.001, Waiting(now + 200.001, 4.0))
    assert not services.gates.any_in_doubt
    gate.asked(now + 300.0, Waiting(now + 300.0, 4.0))
    assert services.gates.any_in_doubt


async def test_a_caller_that_left_leaves_no_answer_owed(bench: Bench, watched: Watched) -> None:
    engine, other = await bench.engine(behaviour := Engine()), await bench.engine(Engine())
    services = await watched(
        row(1, engine.url, engine="openai"), row(2, other.url, engine="openai", priority=1), periods=ALARMS
    )
    behaviour.answers = False
    asked = asyncio.create_task(answer(services, call()))
    await until(lambda: prompts_at(engine) == 1)
    gate = gate_of(services, engine)
    assert gate.owes_since
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert not gate.owes_since


async def test_the_more_replies_come_the_sooner_is_their_lack_noticed(bench: Bench, watched: Watched) -> None:
    engine, other = await bench.engine(Engine()), await bench.engine(Engine())
    services = await watched(
        row(1, engine.url, engine="openai", max_concurrency=100),
        row(2, other.url, engine="openai", priority=1),
        periods=ALARMS,
    )
    assert await answer(services, call()) == SAID
    await until(lambda: not services.gates.any_in_doubt)
    gate = gate_of(services, engine)
    gate.cells[SAMPLES], gate.cells[SERVICE_SECONDS] = 4, 1.0
    assert all(gate.try_enter() for _ in range(20))  # one of them should be answered each twentieth of a second
    now = services.gates.clock()

    def in_doubt(after: float, *, avoidable: bool = True) -> bool:
        flight = Waiting(now + after, 4.0)
        flight.avoidable = avoidable
        gate.asked(flight.begun, flight)
        return services.gates.any_in_doubt

    assert not in_doubt(0.0)
    assert not in_doubt(0.19)
    assert not in_doubt(0.21, avoidable=False), "without another engine there is nothing to be gained"
    assert in_doubt(0.21)
    for _ in range(20):
        gate.leave()


async def test_nothing_is_asked_at_once_where_there_is_no_other_engine(bench: Bench, watched: Watched) -> None:
    engine = await bench.engine(behaviour := Engine())
    behaviour.answers = False
    services = await watched(row(1, engine.url, engine="openai", max_concurrency=10), periods=ALARMS)
    waiting = [asyncio.create_task(answer(services, call())) for _ in range(5)]
    await until(lambda: prompts_at(engine) == 5)
    assert not gate_of(services, engine).cells[CHECKED_AT]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_engine_that_answers_requests_stays_though_it_is_too_busy_for_a_question(
    bench: Bench, watched: Watched
) -> None:
    async def busy(asked: Asked) -> None:
        await (asked.until_left() if asked.method == "GET" else serve(asked))

    engine = await bench.engine(busy)
    services = await watched(
        row(1, engine.url, engine="openai"), periods=msgspec.structs.replace(ALARMS, tick=0.01, check_within=1.0)
    )
    assert await answer(services, call()) == SAID
    gate_of(services, engine).suspected = True
    await until(lambda: services.gates.any_in_doubt)
    while services.gates.any_in_doubt:
        assert await answer(services, call()) == SAID
    assert state_of(services, engine) == "closed"


async def test_without_another_engine_a_request_goes_on_waiting_for_the_one_that_hangs(
    bench: Bench, watched: Watched
) -> None:
    engine = await bench.engine(hung := Engine())
    hung.answers = False
    services = await watched(row(1, engine.url, engine="openai", timeout_seconds=1))
    waiting = asyncio.create_task(answer(services, call()))
    await until(lambda: state_of(services, engine) == "open")
    started = time.monotonic()
    with pytest.raises(NoBackendError, match="out of the route") as caught:
        await answer(services, call())
    assert time.monotonic() - started < 0.2, "the next one is told at once"
    assert caught.value.retry_after is not None
    with pytest.raises(NoBackendError, match="no answer within 1 s"):
        await waiting
