"""When a backend leaves the route and when it may come back: pure functions of what was seen, with no clock and no I/O.

A breaker is *closed* while its backend serves, *open* while nothing is sent to it, and *half-open* while exactly one
trial is under way. All times are those of one monotonic clock, in seconds.
"""

from enum import IntEnum
from typing import NamedTuple

FAILURES = 3  # in a row, after which a backend leaves the route
FIRST_PAUSE = 1.0  # seconds until the first trial
LONGEST_PAUSE = 15.0
TRIAL_SECONDS = 20.0  # a trial of which nothing is heard for so long is lost, and another one may be made
_HIGHEST_LEVEL = 16  # the pause has long reached its longest


class State(IntEnum):
    """Whether a backend is in the route."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


class Reason(IntEnum):
    """Why a breaker opened."""

    NONE = 0
    FAILURES = 1  # requests failed one after the other
    UNREACHABLE = 2  # it refuses connections, or answers nothing at all
    HUNG = 3  # it answers, but does not generate


class Breaker(NamedTuple):
    """All that is known: `failures` in a row, `level` openings in a row, `changed_at` the last change of `state`.

    `retry_at` is when a trial may begin: the first one while open, the next one while half-open.
    """

    state: State = State.CLOSED
    failures: int = 0
    level: int = 0
    changed_at: float = 0.0
    retry_at: float = 0.0
    reason: Reason = Reason.NONE


def pause(level: int, chance: float) -> float:
    """Return how long the opening of this level lasts; `chance` (0 to 1) spreads it, by at most a fifth downwards."""
    return min(FIRST_PAUSE * 2.0 ** min(level, _HIGHEST_LEVEL), LONGEST_PAUSE) * (1 - chance / 5)


def opened(breaker: Breaker, now: float, reason: Reason, chance: float) -> Breaker:
    """Return the breaker taken out of the route at once. One that is open already stays as it is."""
    if breaker.state is State.OPEN:
        return breaker
    level = min(breaker.level + 1, _HIGHEST_LEVEL) if breaker.state is State.HALF_OPEN else 0
    return Breaker(State.OPEN, breaker.failures, level, now, now + pause(level, chance), reason)


def after_failure(
    breaker: Breaker, now: float, begun: float, chance: float, reason: Reason = Reason.FAILURES
) -> Breaker:
    """Return the breaker after an attempt that began at `begun` and failed; `reason` is why it opens if it does.

    An attempt from before the last change says nothing about what holds since.
    """
    if breaker.state is State.OPEN or begun < breaker.changed_at:
        return breaker
    if breaker.state is State.HALF_OPEN:
        return opened(breaker, now, breaker.reason, chance)
    failed = breaker._replace(failures=breaker.failures + 1)
    if failed.failures >= FAILURES:
        return opened(failed, now, reason, chance)
    return failed


def after_success(breaker: Breaker, now: float, begun: float) -> Breaker:
    """Return the breaker after an attempt that began at `begun` and succeeded."""
    if begun < breaker.changed_at:
        return breaker
    if breaker.state is State.CLOSED:
        return breaker._replace(failures=0) if breaker.failures else breaker
    return Breaker(changed_at=now)


def postponed(breaker: Breaker, until: float) -> Breaker:
    """Return the breaker with its next trial no earlier than that; one that is under way goes on."""
    return breaker._replace(retry_at=until) if breaker.state is State.OPEN else breaker


def trial_is_due(breaker: Breaker, now: float) -> bool:
    """Whether one attempt may be made at a backend that is out of the route."""
    return breaker.state is not State.CLOSED and now >= breaker.retry_at


def on_trial(breaker: Breaker, now: float) -> Breaker:
    """Return the breaker with its one trial under way.

    One that follows a trial of which nothing was heard does not make that one void: its reply may just take long.
    """
    changed_at = breaker.changed_at if breaker.state is State.HALF_OPEN else now
    return breaker._replace(state=State.HALF_OPEN, changed_at=changed_at, retry_at=now + TRIAL_SECONDS)


def trial_abandoned(breaker: Breaker, now: float, begun: float) -> Breaker:
    """Return the breaker after an attempt that nobody waited for: if it was the trial, another one is due at once."""
    if breaker.state is not State.HALF_OPEN or begun < breaker.changed_at:
        return breaker
    return breaker._replace(state=State.OPEN, changed_at=now, retry_at=now)
