"""How long a target takes: time to first token by length of prompt, and tokens a second, as lately seen."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import msgspec

T = TypeVar("T")
BUCKETS = (1024, 4096, 16384, 65536)
"""Bytes up to which a prompt is in the first, second … bucket; longer ones are in a last one."""
CROWDS = (0, 2, 5)
"""Requests that the target serves besides, up to which it is lonely, visited, busy; more are a crowd."""
MEMORY = 8
"""Observations that count: with the ninth the first has all but gone."""
HALF_LIFE = 120.0
"""Seconds in which what was seen counts half, beside something new."""


class Mean(NamedTuple):
    """An exponentially weighted mean of so many observations that were `seen`, the last one `at`."""

    value: float = 0.0
    seen: int = 0
    at: float = 0.0


class Estimate(msgspec.Struct, frozen=True):
    """What is expected, from how many observations, and when the last of them was made."""

    value: float
    observations: int
    at: float


class Cell(NamedTuple):
    """What was seen of prompts of one bucket: how long they were, in bytes, and their seconds to the first token."""

    size: Mean = Mean()
    seconds: Mean = Mean()


class Speeds(msgspec.Struct, frozen=True):
    """All that was seen of a target: a row of cells for each crowd, and for each crowd the tokens a second."""

    first: tuple[tuple[Cell, ...], ...] = ((Cell(),) * (len(BUCKETS) + 1),) * (len(CROWDS) + 1)
    write: tuple[Mean, ...] = (Mean(),) * (len(CROWDS) + 1)


UNKNOWN = Speeds()


def bucket(size: int) -> int:
    """Return the bucket of a prompt of so many bytes."""
    return _place(size, BUCKETS)


def after(mean: Mean, value: float, now: float) -> Mean:
    """Return the mean with one more observation; the older the others are, the more it counts."""
    kept = min(mean.seen, MEMORY - 1) * 0.5 ** (max(now - mean.at, 0.0) / HALF_LIFE)
    return Mean((mean.value * kept + value) / (kept + 1.0), mean.seen + 1, now)


def saw_first_token(speeds: Speeds, *, size: int, others: int, seconds: float, now: float) -> Speeds:
    """Return what is known after a first token that came in so many seconds, while `others` were served as well."""
    crowd, place = _place(others, CROWDS), bucket(size)
    row = speeds.first[crowd]
    cell = Cell(after(row[place].size, size, now), after(row[place].seconds, seconds, now))
    return Speeds(_put(speeds.first, crowd, _put(row, place, cell)), speeds.write)


def saw_reply(speeds: Speeds, *, others: int, tokens: int, seconds: float, now: float) -> Speeds:
    """Return what is known after a reply of so many tokens, written in so many seconds; nothing of one without any."""
    if tokens <= 0 or seconds <= 0:
        return speeds
    crowd = _place(others, CROWDS)
    # Seconds a token, because seconds are what is to be foretold: the mean of rates would be too hopeful.
    return Speeds(speeds.first, _put(speeds.write, crowd, after(speeds.write[crowd], seconds / tokens, now)))


def first_token(speeds: Speeds, *, size: int, others: int) -> Estimate | None:
    """Return the seconds to be expected until the first token of a prompt; None where nothing was seen.

    Between the buckets that were seen, on a straight line; beyond them in proportion. From the crowd that is most like
    this one, in proportion to how many share the target.
    """
    crowd = _place(others, CROWDS)
    for other in _nearest(crowd):
        cells = [cell for cell in speeds.first[other] if cell.seconds.seen]
        if cells:
            seconds = _on_line(cells, size) * _share(crowd) / _share(other)
            seen = sum(cell.seconds.seen for cell in cells)
            return Estimate(seconds, seen, max(cell.seconds.at for cell in cells))
    return None


def seconds_a_token(speeds: Speeds, *, others: int) -> Estimate | None:
    """Return how long each token of a reply is to take; None where nothing was seen."""
    crowd = _place(others, CROWDS)
    for other in _nearest(crowd):
        mean = speeds.write[other]
        if mean.seen:
            return Estimate(mean.value * _share(crowd) / _share(other), mean.seen, mean.at)
    return None


def _on_line(cells: Sequence[Cell], size: int) -> float:
    """Return the seconds for a size from cells in order of size."""
    before = None
    for cell in cells:
        if size <= cell.size.value:
            if before is None:
                # A prompt has a part that does not depend on its length: a shorter one is not foretold to take none.
                return cell.seconds.value * max(size / cell.size.value, 0.5)
            span = cell.size.value - before.size.value
            part = (size - before.size.value) / span if span > 0 else 1.0
            return before.seconds.value + (cell.seconds.value - before.seconds.value) * part
        before = cell
    last = cells[-1]
    return last.seconds.value * size / max(last.size.value, 1.0)


def _place(number: int, bounds: Sequence[int]) -> int:
    return sum(number > bound for bound in bounds)


def _share(crowd: int) -> float:
    """Return how much slower a target is thought to be in such a crowd, for want of anything that was seen."""
    return (1.0, 1.5, 2.5, 4.0)[crowd]


def _nearest(crowd: int) -> list[int]:
    return sorted(range(len(CROWDS) + 1), key=lambda other: (abs(other - crowd), other))


def _put(row: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    return (*row[:place], value, *row[place + 1 :])
