"""Which arm of an experiment a caller belongs to: always the same one, as far as the shares allow."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

_SCALE = 2.0**64
CANARY = "canary"
"""The arm whose share grows by itself."""
MAIN = "main"
"""The arm of those that name none, where others of their priority do."""


def shares(weights: Mapping[str, int], canary: float) -> tuple[tuple[str, float], ...]:
    """Return the arms with their shares: the canary's, which comes first, and of the rest each arm's by its weight."""
    others = sorted(name for name in weights if name != CANARY)
    rest, total = 1.0, sum(weights[name] for name in others)
    found = []
    if CANARY in weights:
        rest = 1.0 - canary if others else 0.0
        found.append((CANARY, 1.0 - rest))
    return (*found, *((name, rest * (weights[name] / total if total else 1 / len(others))) for name in others))


def arm(caller: str, experiment: str, shares: Sequence[tuple[str, float]], *, chance: float = 0.0) -> str:
    """Return the arm of a caller, each with its share between 0 and 1; the last arm has what the others leave.

    A caller stays where it is while the shares of the arms before its own and of its own do not change. While the first
    arm grows, callers only move into it, and when it shrinks only out of it. A caller without a name belongs to
    whichever arm `chance`, a number from 0 to 1, falls on. Different experiments divide the callers differently.
    """
    place = _place(caller, experiment) if caller else chance
    edge = 0.0
    for name, share in shares[:-1]:
        edge += share
        if place < edge:
            return name
    return shares[-1][0]


def _place(caller: str, experiment: str) -> float:
    digest = blake2b(caller.encode("utf-8", "surrogatepass"), key=experiment.encode()[:64], digest_size=8).digest()
    return int.from_bytes(digest, "big") / _SCALE
