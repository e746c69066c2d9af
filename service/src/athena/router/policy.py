"""The router's decisions: pure functions of what is known, with no I/O and no clock."""

from collections.abc import Sequence
from random import Random

from athena.router.types import Backend, Target


def targets(backends: Sequence[Backend], *, model: str, ollama_url: str, random: Random) -> tuple[Target, ...]:
    """Return the engines to try for a model, in order; never empty, never one twice."""
    raise NotImplementedError
