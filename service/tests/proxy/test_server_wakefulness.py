"""When the server's event loop stays awake, and when it goes to sleep."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.proxy.server.wakefulness import FIRST_SECONDS, LONGEST_SECONDS, Wakefulness, span
from tests.support.clock import Clock


async def turns(clock: Clock, wakefulness: Wakefulness, *, seconds: float) -> int:
    """Let the loop turn, each turn taking so long; return for how many it stayed awake at least, of 100."""
    stayed = 0
    for _ in range(100):
        clock.now += seconds
        await asyncio.sleep(0)
        stayed += wakefulness.awake
    return stayed


@given(before=st.floats(0, LONGEST_SECONDS), passed=st.floats(0, 10))
def test_it_stays_awake_for_longer_while_that_pays_and_not_at_all_once_it_does_not(
    before: float, passed: float
) -> None:
    after = span(before, passed)
    if passed > LONGEST_SECONDS:
        assert after == 0
    else:
        assert max(before, FIRST_SECONDS) <= after <= LONGEST_SECONDS


async def a_request(clock: Clock, wakefulness: Wakefulness, *, answer: float, pause: float) -> None:
    """Have a request answered after so long, and let the pause after it pass."""
    wakefulness.asked()
    clock.now += answer
    wakefulness.answering()
    wakefulness.answered()
    clock.now += pause
    await asyncio.sleep(0)


async def test_an_engine_that_takes_its_time_is_slept_for() -> None:
    clock = Clock()
    wakefulness = Wakefulness(asyncio.get_running_loop(), clock)
    for _ in range(10):
        await a_request(clock, wakefulness, answer=0.3, pause=0.03)
        assert not wakefulness.awake
        wakefulness.asked()
        assert not wakefulness.awake
        wakefulness.answered()
        clock.now += 1


async def test_a_caller_that_takes_its_time_does_not_keep_it_from_waiting_for_the_answer_awake() -> None:
    clock = Clock()
    wakefulness = Wakefulness(asyncio.get_running_loop(), clock)
    for _ in range(5):
        await a_request(clock, wakefulness, answer=FIRST_SECONDS, pause=10)
        assert not wakefulness.awake
    wakefulness.asked()
    assert wakefulness.awake


async def test_it_is_awake_until_the_span_is_over_and_asleep_then() -> None:
    clock = Clock()
    wakefulness = Wakefulness(asyncio.get_running_loop(), clock)
    for _ in range(6):
        await a_request(clock, wakefulness, answer=FIRST_SECONDS, pause=FIRST_SECONDS)
    assert wakefulness.awake
    wakefulness.asked()
    assert await turns(clock, wakefulness, seconds=LONGEST_SECONDS / 10) == pytest.approx(10, abs=1)
    assert not wakefulness.awake
