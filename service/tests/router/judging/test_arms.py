"""A caller stays with its arm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.router.judging.arms import arm

callers = st.text(min_size=1)
shares = st.floats(0, 1)


@given(callers, st.text(), shares, shares)
def test_a_caller_has_one_arm_whatever_chance_says(caller: str, experiment: str, share: float, chance: float) -> None:
    split = [("new", share), ("old", 1 - share)]
    assert arm(caller, experiment, split) == arm(caller, experiment, split, chance=chance)


@given(callers, shares, shares)
def test_while_an_arm_grows_nobody_leaves_it(caller: str, one: float, other: float) -> None:
    less, more = sorted((one, other))
    if arm(caller, "x", [("new", less), ("old", 1 - less)]) == "new":
        assert arm(caller, "x", [("new", more), ("old", 1 - more)]) == "new"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("experiment", ["", "a", "b"])
def test_an_arm_has_the_share_of_callers_that_it_should(share: float, experiment: str) -> None:
    count = 20_000
    found = sum(
        arm(f"key{number}", experiment, [("new", share), ("old", 1 - share)]) == "new" for number in range(count)
    )
    deviation = (share * (1 - share) / count) ** 0.5
    assert abs(found / count - share) <= 5 * deviation


def test_two_experiments_divide_the_callers_independently() -> None:
    split = [("new", 0.5), ("old", 0.5)]
    both = sum(arm(f"k{n}", "a", split) == arm(f"k{n}", "b", split) for n in range(10_000))
    assert both / 10_000 == pytest.approx(0.5, abs=0.03)


@given(shares)
def test_a_caller_without_a_name_is_where_chance_falls(chance: float) -> None:
    assert arm("", "x", [("new", 0.3), ("old", 0.7)], chance=chance) == ("new" if chance < 0.3 else "old")
