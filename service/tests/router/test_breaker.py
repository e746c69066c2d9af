"""The breaker's rules, tried on thousands of random histories."""

from random import Random

import pytest

from athena.router.breaker import (
    FAILURES,
    LONGEST_PAUSE,
    Breaker,
    Reason,
    State,
    after_failure,
    after_success,
    on_trial,
    opened,
    pause,
    postponed,
    trial_abandoned,
    trial_is_due,
)


def failed(times: int, breaker: Breaker | None = None) -> Breaker:
    """Return a breaker after failures in a row at the times 1, 2, …"""
    breaker = breaker or Breaker()
    for now in range(1, times + 1):
        breaker = after_failure(breaker, float(now), float(now), 0.0)
    return breaker


def test_it_opens_at_the_third_failure_in_a_row_and_not_before() -> None:
    assert failed(FAILURES - 1).state is State.CLOSED
    out = failed(FAILURES)
    assert (out.state, out.reason, out.retry_at) == (State.OPEN, Reason.FAILURES, FAILURES + 1.0)


def test_a_success_in_between_starts_the_count_anew() -> None:
    recovered = after_success(failed(FAILURES - 1), 10.0, 9.0)
    assert failed(FAILURES - 1, recovered).state is State.CLOSED


def test_what_began_before_it_opened_changes_nothing() -> None:
    out = opened(Breaker(), 10.0, Reason.HUNG, 0.0)
    assert after_success(out, 11.0, 9.0) is out
    assert after_failure(out, 11.0, 9.0, 0.0) is out
    trial = on_trial(out, 12.0)
    assert after_failure(trial, 13.0, 9.0, 0.0) is trial
    assert after_success(trial, 13.0, 9.0) is trial


def test_what_failed_before_it_came_back_does_not_count_against_it() -> None:
    back = after_success(on_trial(opened(Breaker(), 10.0, Reason.HUNG, 0.0), 12.0), 13.0, 12.0)
    for now in (14.0, 15.0, 16.0):
        back = after_failure(back, now, 9.0, 0.0)
    assert back.failures == 0


def test_exactly_one_trial_is_due_at_a_time() -> None:
    out = opened(Breaker(), 10.0, Reason.UNREACHABLE, 0.0)
    assert not trial_is_due(out, 10.9)
    assert trial_is_due(out, 11.0)
    trial = on_trial(out, 11.0)
    assert not trial_is_due(trial, 12.0)
    assert trial_is_due(trial, 11.0 + 20.0), "one that is lost does not keep the backend out for good"


def test_a_trial_whose_reply_takes_long_brings_it_back_though_another_one_was_made_meanwhile() -> None:
    trial = on_trial(opened(Breaker(), 10.0, Reason.FAILURES, 0.0), 11.0)
    second = on_trial(trial, 31.0)
    assert not trial_is_due(second, 50.9)
    assert after_success(second, 41.0, 11.0).state is State.CLOSED
    assert after_failure(second, 41.0, 11.0, 0.0).state is State.OPEN


def test_a_trial_that_nobody_waited_for_may_be_made_again_at_once() -> None:
    trial = on_trial(opened(Breaker(), 10.0, Reason.HUNG, 0.0), 11.0)
    again = trial_abandoned(trial, 12.0, 11.5)
    assert trial_is_due(again, 12.0)
    assert trial_abandoned(trial, 12.0, 9.0) is trial, "another request than the trial"


def test_pauses_double_up_to_the_longest_and_are_spread() -> None:
    assert [pause(level, 0.0) for level in range(6)] == [1, 2, 4, 8, 15, 15]
    assert pause(3, 1.0) == pytest.approx(6.4)
    out, now, pauses = opened(Breaker(), 0.0, Reason.HUNG, 0.0), 0.0, []
    for _ in range(5):
        pauses.append(out.retry_at - now)
        trial = on_trial(out, out.retry_at)
        now = out.retry_at + 0.5
        out = after_failure(trial, now, out.retry_at, 0.0)
        assert out.state is State.OPEN
        assert out.reason is Reason.HUNG
    assert pauses == [1, 2, 4, 8, 15]


def test_a_prober_puts_off_the_trial_of_a_backend_that_is_out_and_of_no_other() -> None:
    assert postponed(opened(Breaker(), 1.0, Reason.HUNG, 0.0), 50.0).retry_at == 50.0
    assert postponed(Breaker(), 50.0) == Breaker()
    trial = on_trial(opened(Breaker(), 1.0, Reason.HUNG, 0.0), 3.0)
    assert postponed(trial, 50.0) is trial


def settle(breaker: Breaker, now: float, begun: float, random: Random, *, sound: bool) -> Breaker:
    """Return the breaker after an attempt at a backend that is sound or not; now and then its caller has left."""
    if random.random() < 0.05:
        return trial_abandoned(breaker, now, begun)
    return after_success(breaker, now, begun) if sound else after_failure(breaker, now, begun, random.random())


def asked(breaker: Breaker, now: float) -> tuple[Breaker, bool]:
    """Return the breaker after a request came, and whether it was let through."""
    if breaker.state is State.CLOSED:
        return breaker, True
    return (on_trial(breaker, now), True) if trial_is_due(breaker, now) else (breaker, False)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happened_a_backend_that_is_sound_comes_back(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - repeatable, nothing secret
    breaker, now, sound = Breaker(), 1.0, True
    running: list[float] = []
    for _ in range(2000):
        now += random.expovariate(5)
        sound ^= random.random() < 0.005
        before = breaker
        breaker, let_through = asked(breaker, now)
        if let_through:
            running.append(now)
        if running and random.random() < 0.8:
            begun = running.pop(random.randrange(len(running)))
            breaker = settle(breaker, now, begun, random, sound=sound)
        assert breaker.failures <= FAILURES
        assert breaker.retry_at <= now + max(LONGEST_PAUSE, 20.0)
        assert (breaker.state is State.CLOSED) == (breaker.reason is Reason.NONE)
        if breaker.state is State.OPEN and before.state is State.CLOSED:
            assert breaker.failures == FAILURES
    for _ in range(25):
        now += 1.0
        breaker, let_through = asked(breaker, now)
        if let_through:
            breaker = after_success(breaker, now, now)
    assert breaker.state is State.CLOSED
