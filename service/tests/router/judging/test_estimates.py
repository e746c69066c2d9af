"""What is expected of a target follows what was seen of it."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.router.judging.estimates import (
    HALF_LIFE,
    MEMORY,
    UNKNOWN,
    Mean,
    Speeds,
    after,
    bucket,
    first_token,
    saw_first_token,
    saw_reply,
    seconds_a_token,
)

seconds = st.floats(0.001, 1000.0)
sizes = st.integers(1, 500_000)


@given(st.lists(st.tuples(seconds, st.floats(0, 1000)), min_size=1, max_size=50))
def test_a_mean_lies_within_what_was_seen(seen: list[tuple[float, float]]) -> None:
    mean, now = Mean(), 0.0
    for value, pause in seen:
        now += pause
        mean = after(mean, value, now)
    values = [value for value, _ in seen]
    assert min(values) * 0.999 <= mean.value <= max(values) * 1.001
    assert (mean.seen, mean.at) == (len(seen), now)


@given(seconds, seconds)
def test_a_mean_follows_a_change_within_a_few_observations(before: float, since: float) -> None:
    mean = Mean()
    for number in range(20):
        mean = after(mean, before, number)
    for number in range(20, 20 + 3 * MEMORY):
        mean = after(mean, since, number)
    assert mean.value == pytest.approx(since, abs=0.06 * abs(before - since) + 1e-9)


def test_what_is_long_ago_hardly_counts() -> None:
    mean = Mean()
    for number in range(20):
        mean = after(mean, 10.0, number)
    assert after(mean, 1.0, 20.0).value > 8.5
    assert after(mean, 1.0, 20.0 + 6 * HALF_LIFE).value < 2.0


@pytest.mark.parametrize("seed", range(200))
def test_an_engine_that_takes_so_much_a_byte_is_foretold_exactly(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - repeatable, nothing secret
    start, each = random.uniform(0.01, 1.0), random.uniform(1e-6, 1e-3)
    speeds, now = UNKNOWN, 0.0
    seen = []
    for _ in range(60):
        now += random.expovariate(0.1)
        size = int(random.lognormvariate(8, 2)) + 1
        seen.append(size)
        speeds = saw_first_token(speeds, size=size, others=0, seconds=start + each * size, now=now)
    known = [cell.size.value for cell in speeds.first[0] if cell.size.seen]
    for size in seen:
        estimate = first_token(speeds, size=size, others=0)
        assert estimate is not None
        if known[0] <= size <= known[-1]:
            assert estimate.value == pytest.approx(start + each * size, rel=1e-6)
    assert estimate is not None
    assert estimate.observations == 60
    assert estimate.at == now


@given(sizes, sizes, st.integers(0, 20), st.integers(0, 20), seconds)
def test_something_is_foretold_as_soon_as_anything_was_seen(
    size: int, other: int, others: int, more: int, took: float
) -> None:
    assert first_token(UNKNOWN, size=size, others=others) is None
    speeds = saw_first_token(UNKNOWN, size=size, others=others, seconds=took, now=5.0)
    estimate = first_token(speeds, size=other, others=more)
    assert estimate is not None
    assert estimate.value > 0
    same = first_token(speeds, size=size, others=others)
    assert same is not None
    assert same.value == pytest.approx(took)


@given(sizes, sizes, seconds)
def test_a_longer_prompt_than_the_one_that_was_seen_takes_no_less(size: int, other: int, took: float) -> None:
    speeds = saw_first_token(UNKNOWN, size=size, others=0, seconds=took, now=0.0)
    shorter, longer = (first_token(speeds, size=one, others=0) for one in sorted((size, other)))
    assert shorter is not None
    assert longer is not None
    assert shorter.value <= longer.value + 1e-9


@given(st.integers(0, 20), st.integers(1, 1000), seconds)
def test_the_pace_of_writing_is_that_which_was_seen_in_such_a_crowd(others: int, tokens: int, took: float) -> None:
    assert seconds_a_token(UNKNOWN, others=others) is None
    speeds = saw_reply(UNKNOWN, others=others, tokens=tokens, seconds=took, now=1.0)
    estimate = seconds_a_token(speeds, others=others)
    assert estimate is not None
    assert estimate.value == pytest.approx(took / tokens)
    alone = seconds_a_token(speeds, others=0)
    assert alone is not None
    assert alone.value <= estimate.value + 1e-9


def test_a_reply_without_tokens_says_nothing() -> None:
    assert saw_reply(UNKNOWN, others=0, tokens=0, seconds=1.0, now=0.0) is UNKNOWN
    assert saw_reply(UNKNOWN, others=0, tokens=3, seconds=0.0, now=0.0) is UNKNOWN


def test_what_one_target_showed_changes_nothing_that_was_known_before() -> None:
    before = saw_first_token(UNKNOWN, size=100, others=0, seconds=1.0, now=0.0)
    saw_first_token(before, size=100, others=0, seconds=9.0, now=1.0)
    assert first_token(before, size=100, others=0) == first_token(before, size=100, others=0)
    assert Speeds() == UNKNOWN


def test_buckets_are_by_powers_of_four() -> None:
    assert [bucket(size) for size in (0, 1024, 1025, 4096, 16384, 65536, 65537)] == [0, 0, 1, 1, 2, 3, 4]
