"""When the server's event loop stays awake, and when it goes to sleep."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.proxy.server.wakefulness import FIRST_SECONDS, LONGEST_SECONDS, Wakefulness, span


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


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


async def test_an_engine_that_takes_its_time_is_slept_for() -> None:
    clock = Clock()
    wakefulness = Wakefulness(asyncio.get_running_loop(), clock)
    for _ in range(10):
        clock.now += 0.03
        wakefulness.came()
        assert not wakefulness.awake


async def test_it_is_awake_until_the_span_is_over_and_asleep_then() -> None:
    clock = Clock()
    wakefulness = Wakefulness(asyncio.get_running_loop(), clock)
    for _ in range(4):
        clock.now += 0.0001
        wakefulness.came()
    assert await turns(clock, wakefulness, seconds=LONGEST_SECONDS / 10) == pytest.approx(10, abs=1)
    clock.now += 1
    wakefulness.came()
    assert not wakefulness.awake


async def test_what_comes_meanwhile_keeps_it_awake() -> None:
    clock = Clock()
    wakefulness = Wakefulness(asyncio.get_running_loop(), clock)
    wakefulness.came()
    for _ in range(50):
        clock.now += LONGEST_SECONDS / 2
        wakefulness.came()
        await asyncio.sleep(0)
        assert wakefulness.awake
    assert await turns(clock, wakefulness, seconds=LONGEST_SECONDS) == 0
