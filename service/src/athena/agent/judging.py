"""What probes show of an engine: pure functions of their results.

An engine that has much to do and one that hangs look alike from outside: both accept a request, and both are silent.
`mlx_lm.server` even answers `/health` and the head of a stream in either case. So silence counts against an engine only
where nothing shows that it is at work, and a probe that has found its place behind others is left there.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from athena.router.errors import FailureKind

WORKING_CPU = 0.1
"""Processor time per second of an engine that is at work. Idle ones poll, and use a hundredth of that."""
WORKING_GPU = 10.0
"""Per cent of the GPU that is in use where a model is at work; a desktop takes less."""


class Outcome(StrEnum):
    """What one probe has shown."""

    TOKEN = "token"  # noqa: S105  # it generated in time
    LATE = "late"  # it generated, after the deadline
    WAITING = "waiting"  # nothing yet, but it is at work for others; the probe waits on
    OVERLOADED = "overloaded"  # it says itself that it has too much to do
    ANSWERS = "answers"  # it answers, and may not be asked for a token
    SILENT = "silent"  # it accepted, and nothing came in time
    FAILED = "failed"  # it answered with a failure, or broke off
    REFUSED = "refused"  # nobody listens
    WRONG_MODEL = "wrong_model"  # it serves, but not the model that it should


class State(StrEnum):
    """What the results of late make of an engine."""

    STARTING = "starting"
    HEALTHY = "healthy"
    BUSY = "busy"  # at work for others: slower than its deadline
    SUSPECT = "suspect"  # accepts and does not generate, not yet for long enough
    HUNG = "hung"
    DOWN = "down"  # nobody listens; to start it is its service manager's task
    WRONG_MODEL = "wrong_model"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One probe: when it began (monotonic seconds), how long it took, and what to tell a person of it."""

    begun: float
    seconds: float
    outcome: Outcome
    detail: str = ""


class Signs(msgspec.Struct, frozen=True, kw_only=True):
    """What shows from outside whether an engine is at work while a probe waits. None: it cannot be seen.

    `cpu` is processor time per second of all its processes, `gpu` per cent of the host's GPU in use, `others` the
    connections of other clients that are open.
    """

    cpu: float | None = None
    gpu: float | None = None
    others: int | None = None


PROVES = {Outcome.TOKEN, Outcome.LATE, Outcome.ANSWERS, Outcome.OVERLOADED, Outcome.WRONG_MODEL}
"""What shows that an engine is up: from then on failures count, however short ago it was started."""
_AGAINST = {Outcome.SILENT, Outcome.FAILED}
_CLEAR = {
    Outcome.TOKEN: State.HEALTHY,
    Outcome.ANSWERS: State.HEALTHY,
    Outcome.LATE: State.BUSY,
    Outcome.WAITING: State.BUSY,
    Outcome.OVERLOADED: State.BUSY,
    Outcome.WRONG_MODEL: State.WRONG_MODEL,
}


def is_at_work(signs: Signs) -> bool:
    """Whether an engine that is silent to a probe is at work for others.

    The processor tells even of work for callers who have gone, which `mlx_lm.server` does not notice. The GPU is the
    host's, and tells of this engine only if somebody asks it. Callers who wait tell little by themselves: they may wait
    in vain as well. They count only where nothing else can be seen.
    """
    if signs.cpu is None and signs.gpu is None:
        return signs.others is None or signs.others > 0
    if signs.cpu is not None and signs.cpu >= WORKING_CPU:
        return True
    return signs.gpu is not None and signs.gpu >= WORKING_GPU and signs.others != 0


def is_worth_waiting(signs: Signs, *, without_token: float, patience: float) -> bool:
    """Whether a silent engine gets more time: it is at work, and has not been for longer than anybody's work takes."""
    return without_token < patience and is_at_work(signs)


def of_failure(kind: FailureKind) -> Outcome:
    """Return what a probe without an answer shows.

    A connection that is not made in time is no refusal: an engine that is stopped accepts until its queue is full.
    """
    match kind:
        case FailureKind.REFUSED:
            return Outcome.REFUSED
        case FailureKind.TIMEOUT:
            return Outcome.SILENT
        case _:
            return Outcome.FAILED


def judge(results: Sequence[Result], *, now: float, started_at: float, grace: float, hung_after: int) -> State:
    """Return the state of an engine by the results since it was started, oldest first.

    `started_at` and `now` are monotonic seconds; `grace` seconds after the start, or once it has shown that it is up,
    failures count.
    """
    if not results:
        return State.STARTING
    last = results[-1].outcome
    if last in _CLEAR:
        return _CLEAR[last]
    if now - started_at < grace and not any(result.outcome in PROVES for result in results):
        return State.STARTING
    if last is Outcome.REFUSED:
        return State.DOWN
    return State.HUNG if failures_in_a_row(results) >= hung_after else State.SUSPECT


def failures_in_a_row(results: Sequence[Result]) -> int:
    """Return how many of the last results speak against the engine."""
    count = 0
    for result in reversed(results):
        if result.outcome not in _AGAINST:
            break
        count += 1
    return count
