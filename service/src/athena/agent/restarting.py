"""Whether an engine is to be started anew, and which: pure functions of states, of what was tried, and of the time."""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from athena.agent.configuration import RestartLimits
from athena.agent.judging import State


class Attempts(msgspec.Struct, frozen=True, kw_only=True):
    """What was tried with one engine. Times are seconds since the epoch: they outlive the agent.

    `given_up_at` is when the limit was reached; it holds until the engine recovers, or somebody has replaced `process`,
    the one that was given up.
    """

    restarts: tuple[float, ...] = ()
    given_up_at: float | None = None
    process: int | None = None


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An engine as far as a restart is concerned. `process` is its process id, None where that is not known."""

    name: str
    state: State
    can_restart: bool
    attempts: Attempts = Attempts()
    process: int | None = None


class Action(StrEnum):
    """What to do about an engine."""

    NOTHING = "nothing"
    WAIT = "wait"
    RESTART = "restart"
    GIVE_UP = "give_up"


class Decision(msgspec.Struct, frozen=True):
    """What to do about an engine, and why."""

    action: Action
    reason: str = ""


NOTHING = Decision(Action.NOTHING)


def decide(candidate: Candidate, now: float, limits: RestartLimits) -> Decision:
    """Return what to do about one engine by itself at `now`, in seconds since the epoch."""
    if candidate.state is not State.HUNG:
        return NOTHING
    if not candidate.can_restart:
        return Decision(Action.WAIT, "no job is configured that could be started anew")
    attempts = candidate.attempts
    if attempts.given_up_at is not None:
        return Decision(Action.GIVE_UP, "given up; it needs a person")
    recent = _recent(attempts, now, limits)
    if len(recent) >= limits.most:
        window = round(limits.window_seconds)
        return Decision(Action.GIVE_UP, f"started anew {len(recent)} times within {window} s, and it hangs again")
    if recent:
        pause = limits.pause_seconds * 2 ** (len(recent) - 1)
        passed = now - recent[-1]
        if 0 <= passed < pause:  # a clock that was set back must not make it wait for years
            return Decision(Action.WAIT, f"the next restart is in {max(1, round(pause - passed))} s")
    return Decision(Action.RESTART, f"restart {len(recent) + 1} of {limits.most}")


def choose(candidates: Iterable[Candidate], now: float, limits: RestartLimits, *, running: str | None) -> str | None:
    """Return the one engine to start anew now, None if there is none.

    One at a time: not while another restart is under way, nor while an engine that was started anew loads its model,
    for which two may not have the memory. Of several it is the one whose last restart is the longest ago.
    """
    everyone = tuple(candidates)
    if running is not None or any(is_settling(one, now, limits) for one in everyone):
        return None
    due = [one for one in everyone if decide(one, now, limits).action is Action.RESTART]
    return min(due, key=lambda one: one.attempts.restarts[-1:] or (0.0,)).name if due else None


def is_settling(candidate: Candidate, now: float, limits: RestartLimits) -> bool:
    """Whether the engine is starting because we started it anew."""
    return candidate.state is State.STARTING and bool(_recent(candidate.attempts, now, limits))


def with_restart(attempts: Attempts, now: float, limits: RestartLimits) -> Attempts:
    """Return what was tried with one more restart, and without those that do not count any more."""
    return msgspec.structs.replace(attempts, restarts=(*_recent(attempts, now, limits), now))


def after(candidate: Candidate, now: float, limits: RestartLimits) -> Attempts:
    """Return what was tried, with giving up noted where the limit is reached, and forgotten where that has ended."""
    attempts = candidate.attempts
    if attempts.given_up_at is None:
        if decide(candidate, now, limits).action is Action.GIVE_UP:
            return msgspec.structs.replace(attempts, given_up_at=now, process=candidate.process)
        return attempts
    replaced = None not in (attempts.process, candidate.process) and attempts.process != candidate.process
    if candidate.state is State.HEALTHY or replaced:
        # Somebody has acted. The restarts go on to count: that many in an hour are the limit whoever mends it.
        return msgspec.structs.replace(attempts, given_up_at=None, process=None)
    return attempts


def _recent(attempts: Attempts, now: float, limits: RestartLimits) -> tuple[float, ...]:
    return tuple(at for at in attempts.restarts if now - limits.window_seconds < at <= now + limits.window_seconds)
