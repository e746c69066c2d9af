"""A canary grows while it is good and goes back when it is not, tried over whole rollouts."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.router.judging.arms import arm
from athena.router.judging.canary import Bounds, Canary, Stage, advance, begun
from athena.router.judging.comparing import Tally, with_outcome

BOUNDS = Bounds()
tallies = st.builds(
    lambda answered, errors, mean, spread: Tally(
        requests=answered + errors,
        errors=errors,
        times=answered,
        logs=answered * mean,
        squares=answered * (mean * mean + spread),
    ),
    st.integers(0, 5000),
    st.integers(0, 500),
    st.floats(-3, 3),
    st.floats(0, 2),
)
canaries = st.builds(
    Canary,
    share=st.floats(0.001, 1.0),
    stage=st.sampled_from(Stage),
    since=st.floats(0, 100),
    falls=st.integers(0, 5),
)


@given(canaries, tallies, tallies, st.floats(100, 1e5))
def test_a_share_is_a_share_and_grows_by_one_step_at_most(canary: Canary, new: Tally, old: Tally, now: float) -> None:
    after = advance(canary, BOUNDS, new, old, now)
    assert 0.0 <= after.share <= 1.0
    assert after.share <= max(canary.share * BOUNDS.step, BOUNDS.start)
    assert (after.stage is Stage.BACK) <= (after.share == 0.0 or after == canary)
    assert after.because


class Rollout:
    """A canary with callers: what it did to them."""

    def __init__(self, seed: int, *, errors: float = 0.01, times: float = 1.0, bounds: Bounds = BOUNDS) -> None:
        random = Random(seed)  # noqa: S311 - repeatable, nothing secret
        self.canary = begun(bounds, 0.0)
        self.met = self.failed = 0
        self.largest = self.canary.share
        new = old = Tally()
        for number in range(30_000):
            chosen = arm("", "", [("new", self.canary.share), ("old", 1 - self.canary.share)], chance=random.random())
            rate, median = (errors, times) if chosen == "new" else (0.01, 1.0)
            bad = random.random() < rate
            first_token = None if bad else median * random.lognormvariate(0, 0.6)
            if chosen == "new":
                new = with_outcome(new, first_token=first_token)
                self.met += 1
                self.failed += bad
            else:
                old = with_outcome(old, first_token=first_token)
            if number % 20 == 0:  # as a clock would
                after = advance(self.canary, bounds, new, old, float(number) * 0.01)
                if after.share != self.canary.share:
                    new = old = Tally()
                self.canary = after
                self.largest = max(self.largest, after.share)
            if self.canary.stage is not Stage.GROWING:
                break


def test_a_good_canary_gets_everything_by_itself_nearly_always() -> None:
    ends = [Rollout(seed).canary for seed in range(120)]
    whole = sum(canary.stage is Stage.WHOLE for canary in ends)
    assert whole >= 114, "one in twenty may fall by chance, at most"


def test_a_canary_that_fails_goes_back_before_many_meet_it() -> None:
    rollouts = [Rollout(seed, errors=0.2) for seed in range(120)]
    assert all(one.canary.stage is Stage.BACK for one in rollouts)
    assert max(one.largest for one in rollouts) <= 0.04
    # Half and half, which it replaces, would have let a fifth of half of all prompts fail until somebody looked.
    assert sum(one.failed for one in rollouts) / len(rollouts) < 15
    assert all("Fisher" in one.canary.because for one in rollouts)


def test_a_canary_that_is_slow_goes_back() -> None:
    rollouts = [Rollout(seed, times=2.0) for seed in range(120)]
    assert all(one.canary.stage is Stage.BACK for one in rollouts)
    assert max(one.largest for one in rollouts) <= 0.04
    assert any("Welch" in one.canary.because for one in rollouts)


def test_one_that_is_a_little_slower_but_within_bounds_is_not_held_back() -> None:
    ends = [Rollout(seed, times=1.05).canary.stage for seed in range(60)]
    assert ends.count(Stage.WHOLE) >= 54


def test_after_it_went_back_it_rests_twice_as_long_each_time() -> None:
    for falls in (1, 2, 3):
        back = Canary(share=0.0, stage=Stage.BACK, since=100.0, falls=falls)
        rest = BOUNDS.rest * 2 ** (falls - 1)
        assert advance(back, BOUNDS, Tally(), Tally(), 100.0 + rest - 1) is back
        again = advance(back, BOUNDS, Tally(), Tally(), 100.0 + rest)
        assert (again.stage, again.share, again.falls) == (Stage.GROWING, BOUNDS.start, falls)


@pytest.mark.parametrize("requests", [0, BOUNDS.enough - 1])
def test_it_waits_until_enough_was_seen(requests: int) -> None:
    canary = begun(BOUNDS, 0.0)
    few = Tally(requests=requests, times=requests)
    assert advance(canary, BOUNDS, few, Tally(requests=5000, times=5000), 1.0) is canary
    assert advance(canary, BOUNDS, Tally(requests=50, times=50), Tally(), 1.0) is canary


def whole() -> Canary:
    """Return one that has just been given everything, by 400 good requests of each."""
    last = Canary(share=0.64)
    good = Tally(requests=400, times=400)
    after = advance(last, BOUNDS, good, good, 1.0)
    assert after.stage is Stage.WHOLE
    return after


def test_one_that_has_everything_goes_back_when_it_begins_to_fail() -> None:
    good, nobody = Tally(requests=5000, errors=5, times=4995), Tally()
    assert advance(whole(), BOUNDS, good, nobody, 2.0) == whole()
    failing = Tally(requests=5400, errors=405, times=4995)
    for other in (nobody, Tally(requests=300, times=300)):  # none that fail are tried there, or some are
        after = advance(whole(), BOUNDS, failing, other, 2.0)
        assert (after.stage, after.share, after.falls) == (Stage.BACK, 0.0, 1)


def test_one_that_is_slower_because_it_has_everything_is_left_alone() -> None:
    slow = Tally(requests=5000, times=5000, logs=5000 * 3.0, squares=5000 * 9.5)
    assert advance(whole(), BOUNDS, slow, Tally(), 2.0) == whole()


def test_no_time_that_nobody_saw_is_told() -> None:
    grown = advance(begun(BOUNDS, 0.0), BOUNDS, Tally(requests=50), Tally(requests=500), 1.0)
    assert grown.because == "it grew: 50 requests, 0 failed, nothing seen of the time to first token"
    assert "1.00 times the other's time to first token" in whole().because
