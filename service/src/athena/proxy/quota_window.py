"""How much was used in the last minute, counted in slices of a few seconds, in memory that the workers share.

A slice counts in full until all of it is more than a minute ago: in no 60 seconds is more used than was allowed, and
what was used is forgotten after 60 to 63.
"""

from athena.router.board import Slot

SLICE_SECONDS = 3.0
SLICES = 20
_LATEST = 2  # the cell with the number of the newest slice, after those that the board needs
_COUNTS = 3  # the first cell of the ring of counts
_RING = SLICES + 1


class Window:
    """The window of one limit. Times are in seconds of a clock that all workers share and that never goes back."""

    __slots__ = ("_cells", "_slot")

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._cells = slot.cells

    def wait(self, limit: int, now: float) -> float:
        """Return for how many seconds the limit is used up yet; 0: it is not."""
        with self._slot.locked():
            return self._wait(limit, now)

    def take(self, limit: int, now: float) -> float:
        """Use one unless the limit is used up; returns 0, or how many seconds to wait."""
        with self._slot.locked():
            wait = self._wait(limit, now)
            if not wait:
                self._cells[_COUNTS + int(now // SLICE_SECONDS) % _RING] += 1
            return wait

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

    def _wait(self, limit: int, now: float) -> float:
        number, cells = self._advance(now), self._cells
        used = sum(cells[_COUNTS : _COUNTS + _RING])
        if used < limit:
            return 0.0
        for oldest in range(number - SLICES, number + 1):
            used -= cells[_COUNTS + oldest % _RING]
            if used < limit:
                return (oldest + _RING) * SLICE_SECONDS - now
        raise AssertionError("without any slice nothing is used")
