"""How sure it is that an arm is worse: the tests against tables, and against chance itself."""

import math
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.router.judging.comparing import Tally, compare, fisher, student_above, welch, with_outcome


@pytest.mark.parametrize(
    ("t", "freedom", "above"),
    [  # the one-sided critical values of Student's table
        (6.314, 1, 0.05),
        (2.920, 2, 0.05),
        (2.015, 5, 0.05),
        (1.812, 10, 0.05),
        (2.764, 10, 0.01),
        (1.697, 30, 0.05),
        (2.457, 30, 0.01),
        (1.658, 120, 0.05),
        (3.160, 120, 0.001),
        (1.645, 1e6, 0.05),
    ],
)
def test_students_distribution_is_that_of_the_tables(t: float, freedom: float, above: float) -> None:
    assert student_above(t, freedom) == pytest.approx(above, rel=0.01)
    assert student_above(-t, freedom) == pytest.approx(1 - above, rel=0.01)
    assert student_above(0.0, freedom) == pytest.approx(0.5)


def test_the_lady_who_tasted_tea_is_right_by_chance_once_in_seventy_times() -> None:
    assert fisher(4, 4, 0, 4) == pytest.approx(1 / 70)
    assert fisher(3, 4, 1, 4) == pytest.approx(17 / 70)
    assert fisher(0, 4, 4, 4) == pytest.approx(1.0)


@pytest.mark.parametrize(("requests", "others"), list(product((1, 3, 8, 20), (1, 5, 30))))
def test_fishers_test_adds_up_what_can_be_counted(requests: int, others: int) -> None:
    for errors in range(requests + 1):
        for other in range(others + 1):
            failed, total = errors + other, requests + others
            counted = sum(
                math.comb(failed, k) * math.comb(total - failed, requests - k)
                for k in range(errors, min(failed, requests) + 1)
                if requests - k <= total - failed
            )
            assert fisher(errors, requests, other, others) == pytest.approx(counted / math.comb(total, requests))


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000))
def test_probabilities_are_between_nought_and_one(a: int, b: int, c: int, d: int) -> None:
    assert 0.0 <= fisher(min(a, b), b, min(c, d), d) <= 1.0


def drawn(random: Random, count: int, *, errors: float, median: float) -> Tally:
    """Return what is seen of an arm with such a rate of errors and such times, which are spread as times are."""
    tally = Tally()
    for _ in range(count):
        failed = random.random() < errors
        tally = with_outcome(tally, first_token=None if failed else median * random.lognormvariate(0, 0.8))
    return tally


def test_two_arms_that_are_alike_are_seldom_told_apart() -> None:
    random = Random(1)  # noqa: S311 - repeatable, nothing secret
    rounds = 2000
    wrong = [0, 0]
    for _ in range(rounds):
        one = drawn(random, 60, errors=0.1, median=1.0)
        other = drawn(random, 200, errors=0.1, median=1.0)
        found = compare(one, other)
        wrong[0] += found.errors_confidence > 0.95
        wrong[1] += found.slower_confidence > 0.95
    assert wrong[0] / rounds <= 0.05, "Fisher's test is never wrong more often than it says"
    assert wrong[1] / rounds == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("seed", range(50))
def test_an_arm_that_is_clearly_worse_is_told_from_the_other(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - repeatable, nothing secret
    found = compare(
        drawn(random, 300, errors=0.15, median=2.0), drawn(random, 300, errors=0.01, median=1.0), times=1.25, more=0.01
    )
    assert found.errors_confidence > 0.99
    assert found.slower_confidence > 0.99
    assert 1.5 < found.slower < 2.7
    assert 0.05 < found.more_errors < 0.25


def test_nothing_is_sure_where_nothing_was_seen() -> None:
    found = compare(Tally(), Tally())
    assert (found.errors_confidence, found.slower_confidence, found.slower) == (0.0, 0.0, 1.0)
    one = with_outcome(Tally(), first_token=1.0)
    assert welch(one, one, 0.0) == 1.0


def test_times_that_do_not_vary_are_compared_as_they_are() -> None:
    slow = with_outcome(with_outcome(Tally(), first_token=2.0), first_token=2.0)
    fast = with_outcome(with_outcome(Tally(), first_token=1.0), first_token=1.0)
    assert compare(slow, fast).slower_confidence == 1.0
    assert compare(fast, slow).slower_confidence == 0.0
    assert compare(slow, fast).slower == pytest.approx(2.0)
