"""The arms of a model in the registry: what was seen of each, and the share of the canary, which follows from it.

The caller holds the lock on the configuration: a share is configuration, and is recorded as such.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from athena.db.models import LlmBackend
from athena.errors import ConflictError
from athena.router.judging.arms import CANARY, MAIN
from athena.router.judging.canary import Bounds, Canary, Stage, advance, begun
from athena.router.judging.comparing import Tally

BOUNDS = Bounds()
# Another engine, or another part in the comparison: what was seen before is of something else.
_ANOTHER = ("arm", "model_name", "endpoint_url", "backend_type", "priority")


def arm_of(backend: LlmBackend) -> str:
    """Return the arm of a backend."""
    return backend.arm or MAIN


def tally_of(backend: LlmBackend) -> Tally:
    """Return what was seen of a backend since the comparison began, or the canary's share last changed."""
    return msgspec.convert(backend.tally, Tally) if backend.tally is not None else Tally()


def canary_of(backend: LlmBackend) -> Canary | None:
    """Return where a canary stands; None where the backend is none."""
    return msgspec.convert(backend.canary, Canary) if backend.canary is not None else None


def compared(route: Sequence[LlmBackend], priority: int) -> list[LlmBackend]:
    """Return the enabled backends of a priority if there are two arms among them at least, otherwise nothing."""
    equals = [backend for backend in route if backend.enabled and backend.priority == priority]
    return equals if len({arm_of(backend) for backend in equals}) > 1 else []


def added(tally: Tally, figure: Mapping[str, Any]) -> Tally:
    """Return a tally with the figures that a router reports of a backend."""
    return Tally(
        requests=tally.requests + figure["requests"],
        errors=tally.errors + figure["errors"],
        times=tally.times + figure["times"],
        logs=tally.logs + figure["logs"],
        squares=tally.squares + figure["squares"],
    )


def together(backends: Sequence[LlmBackend]) -> Tally:
    """Return what was seen of several backends."""
    total = Tally()
    for backend in backends:
        total = added(total, msgspec.structs.asdict(tally_of(backend)))
    return total


def changed(backend: LlmBackend, before: Mapping[str, Any], others: Sequence[LlmBackend], now: float) -> None:
    """Begin anew after a backend was added or changed: `before` is its configuration from then, empty if it is new.

    `others` are those of its model. Raises ConflictError where two of them would be canaries.
    """
    if backend.arm == CANARY:
        other = next((one for one in others if one.arm == CANARY), None)
        if other is not None:
            raise ConflictError(
                f"the backend {other.id} is the canary of {backend.model_name} already; let that be none first, with "
                f'PUT /api/llm-backends/{other.id} and {{"arm": null}}',
                field="arm",
            )
    if all(before.get(name) == getattr(backend, name) for name in _ANOTHER):
        return
    backend.canary = msgspec.to_builtins(begun(BOUNDS, now)) if backend.arm == CANARY else None
    for one in (backend, *others):
        one.tally = None


def count(route: Sequence[LlmBackend], figures: Mapping[int, Mapping[str, Any]], now: float) -> LlmBackend | None:
    """Add what routers report of a model's arms; return its canary if its share changes by it."""
    for backend in route:
        if backend.id in figures and compared(route, backend.priority):
            backend.tally = msgspec.to_builtins(added(tally_of(backend), figures[backend.id]))
    backend_ = next((one for one in route if one.canary is not None and one.enabled), None)
    canary = canary_of(backend_) if backend_ is not None else None
    if backend_ is None or canary is None:
        return None
    equals = compared(route, backend_.priority)
    if not equals:
        return None
    others = [one for one in equals if one is not backend_]
    after = advance(canary, BOUNDS, tally_of(backend_), together(others), now)
    if after == canary:
        return None
    backend_.canary = msgspec.to_builtins(after)
    for one in equals:
        one.tally = None
    return backend_


def stage_in_words(canary: Canary) -> str:
    """Return where a canary stands."""
    where = {
        Stage.GROWING: f"{canary.share:.0%} of the callers, growing",
        Stage.BACK: "nobody, until it has rested",
        Stage.WHOLE: "all callers",
    }[canary.stage]
    fell = f"; it went back {canary.falls} times so far" if canary.falls else ""
    return f"It is the canary and serves {where}: {canary.because}{fell}."
