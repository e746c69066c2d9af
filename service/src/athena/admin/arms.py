"""The arms of a priority side by side: what was seen of each, and how sure it is that it differs from the others."""

import math
from collections.abc import Sequence

from pydantic import BaseModel

from athena.admin.rollout import arm_of, compared, together
from athena.db.models import LlmBackend
from athena.router.judging.arms import CANARY, shares
from athena.router.judging.comparing import compare


class ArmFigures(BaseModel):
    """What was seen of an arm since the comparison began, or since the canary's share last changed.

    `first_token_seconds` is a geometric mean, null where none was seen. `more_errors` (a difference of shares of
    requests) and `slower` (a ratio of times to the first token) are against all other arms together, each with the
    confidence between 0 and 1 that the difference is no chance, one-sided.
    """

    arm: str
    backends: list[int]
    share: float
    requests: int
    errors: int
    first_token_seconds: float | None
    more_errors: float
    errors_confidence: float
    slower: float
    slower_confidence: float


def figures(route: Sequence[LlmBackend], priority: int) -> list[ArmFigures]:
    """Return the arms of a model's priority by name; nothing where there is only one."""
    by_arm: dict[str, list[LlmBackend]] = {}
    for backend in compared(route, priority):
        by_arm.setdefault(arm_of(backend), []).append(backend)
    canary = next((backend.share for backend in by_arm.get(CANARY, ())), None)
    weights = {name: sum(backend.weight for backend in backends) for name, backends in by_arm.items()}
    share = dict(shares(weights, canary or 0.0)) if by_arm else {}
    return [
        _of(name, backends, share[name], [one for other in by_arm if other != name for one in by_arm[other]])
        for name, backends in sorted(by_arm.items())
    ]


def in_words(arm: ArmFigures) -> str:
    """Return an arm's figures as a sentence."""
    numbers = ", ".join(str(number) for number in arm.backends)
    words = f"Arm {arm.arm} (backend {numbers}) has {arm.share:.0%} of the callers"
    if not arm.requests:
        return f"{words}; nothing was seen of it yet."
    words += f"; of {arm.requests} requests {arm.errors} failed ({arm.errors / arm.requests:.1%})"
    if arm.first_token_seconds is not None:
        words += f", {arm.first_token_seconds:.2f} s to the first token"
    return (
        f"{words}; against the others {arm.more_errors:+.1%} errors, sure by {arm.errors_confidence:.1%}, and "
        f"{arm.slower:.2f} times the time to the first token, sure by {arm.slower_confidence:.1%}."
    )


def _of(name: str, backends: Sequence[LlmBackend], share: float, others: Sequence[LlmBackend]) -> ArmFigures:
    one, other = together(backends), together(others)
    worse, better = compare(one, other), compare(other, one)
    return ArmFigures(
        arm=name,
        backends=[backend.id for backend in backends],
        share=share,
        requests=one.requests,
        errors=one.errors,
        first_token_seconds=math.exp(one.logs / one.times) if one.times else None,
        more_errors=worse.more_errors,
        errors_confidence=worse.errors_confidence if worse.more_errors >= 0 else better.errors_confidence,
        slower=worse.slower,
        slower_confidence=worse.slower_confidence if worse.slower >= 1 else better.slower_confidence,
    )
