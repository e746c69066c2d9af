"""How the schema can go back over migrations, decided by what each of them says of itself. Pure."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class Step(NamedTuple):
    """One migration: whether its downgrade loses nothing, and whether the code from before it runs on it."""

    revision: str
    title: str
    reversible: bool
    previous_code_runs: bool


class Way(StrEnum):
    """What happens to the schema when the code before some migrations comes back."""

    DOWN = "down"  # it goes back as well
    KEEP = "keep"  # it stays, because it cannot go back, and the older code runs on it
    STOP = "stop"  # neither: only a backup from before brings the older code back


def way_back(steps: Sequence[Step]) -> Way:
    """Return the way back over these migrations, the newest first.

    Reversible ones above one that is not stay as well where all of them may: the schema is at a revision or it is not.
    """
    if all(step.reversible for step in steps):
        return Way.DOWN
    return Way.KEEP if all(step.previous_code_runs for step in steps) else Way.STOP
