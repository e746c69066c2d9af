"""How much was used in the last minute, counted in slices of a few seconds, in memory that the workers share.

A slice counts in full until all of it is more than a minute ago: in no 60 seconds is more used than was allowed, and
what was used is forgotten after 60 to 63.
"""

from typing import NamedTuple

from athena.router.board import Slot

SLICE_SECONDS = 3.0
SLICES = 20
_LATEST = 2  # the cell with the number of the newest slice, after those that the board needs
_COUNTS = 3  # the first cell of the ring of counts
_RING = SLICES + 1


class Standing(NamedTuple):
    """How a limit stands: how much of it was used, for how many seconds it is used up yet (0: it is not), and in how
    many seconds all that was used is forgotten.
    """

    used: int
    wait: float
    reset: float


class Window:
    """The window of one limit. Times are in seconds of a clock that all workers share and that never goes back."""

    __slots__ = ("_cells", "_slot")

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._cells = slot.cells

    def look(self, limit: int, now: float) -> Standing:
        """Return how the limit stands."""
        with self._slot.locked():
            return self._standing(limit, now)

    def take(self, limit: int, now: float) -> Standing:
        """Use one unless the limit is used up; returns how it stands then."""
        with self._slot.locked():
            found = self._standing(limit, now)
            if found.wait:
                return found
            number = int(now // SLICE_SECONDS)
            self._cells[_COUNTS + number % _RING] += 1
            return Standing(found.used + 1, 0.0, _forgotten_in(number, now))

    def add(self, amount: int, now: float) -> None:
        """Use so many, whatever the limit."""
        with self._slot.locked():
            number = self._advance(now)
            self._cells[_COUNTS + number % _RING] += amount

    def _advance(self, now: float) -> int:
        """Begin the slice of now, forgetting those of which it takes the place; returns its number."""
        cells, number = self._cells, int(now // SLICE_SECONDS)
        for begun in range(max(int(cells[_LATEST]) + 1, number - SLICES), number + 1):
            cells[_COUNTS + begun % _RING] = 0.0
        cells[_LATEST] = max(cells[_LATEST], number)
        return number

    def _standing(self, limit: int, now: float) -> Standing:
        number, cells = self._advance(now), self._cells
        counts = [(slice_, cells[_COUNTS + slice_ % _RING]) for slice_ in range(number - SLICES, number + 1)]
        used = left = sum(count for _, count in counts)
        newest = max((slice_ for slice_, count in counts if count), default=None)
        reset = _forgotten_in(newest, now) if newest is not None else 0.0
        if used < limit:
            return Standing(int(used), 0.0, reset)
        for oldest, count in counts:
            left -= count
            if left < limit:
                return Standing(int(used), _forgotten_in(oldest, now), reset)
        raise AssertionError("without any slice nothing is used")


def _forgotten_in(number: int, now: float) -> float:
    """Return in how many seconds what was used in a slice is forgotten."""
    return (number + _RING) * SLICE_SECONDS - now
