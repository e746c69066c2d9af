"""Pieces of streams, written at once while there are few, and several together where very many come fast.

A write to a socket costs more than all else that is done for a piece: it takes the kernel through TCP to the reader's
side, and wakes the reader up. Where the core is about to be the limit, the pieces of a fast stream are held a moment
and go out in one write, as network cards hold interrupts back: a sixth more chunks a second, at less cost for each.
"""

import asyncio
from collections.abc import Callable

import structlog

SPAN_SECONDS = 0.001  # the event loop's own clock counts thousandths
# Pieces in one span of streams of which nothing is held: about a third of what one core can write one by one.
MANY = 32
HOLD_SECONDS = 0.002  # how long a piece waits for the next one of its stream at most
_EARLY = 0.0001  # of a float's inaccuracy
log = structlog.get_logger()


class Coalescer:
    """Decides for each piece whether it is held, and sees to it that it does not stay so. One per event loop.

    Times are those of the event loop.
    """

    __slots__ = ("_came", "_came_before", "_due", "_held_since", "_looked_at", "_loop", "_many", "_since")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._many = False
        self._came = 0  # pieces so far
        self._came_before = 0  # of these, before the present span
        self._since = 0.0
        self._due: list[Callable[[], None]] = []
        self._held_since = 0.0
        self._looked_at = 0  # pieces that had come when it was looked last

    def holds(self, now: float, before: float, write: Callable[[], None]) -> bool:
        """Return whether a piece that has come `now` is to be held; `write` is then called in a moment.

        `before` is when the piece before it came: nothing is gained by holding a stream whose next piece is far off.
        """
        passed = now - self._since
        if passed > SPAN_SECONDS - _EARLY:
            self._many = (self._came - self._came_before) * SPAN_SECONDS >= MANY * passed
            self._came_before = self._came
            self._since = now
        self._came += 1
        if not self._many or now - before > HOLD_SECONDS:
            return False
        if not self._due:
            self._held_since = now
            self._looked_at = 0
            self._loop.call_soon(self._look)
        self._due.append(write)
        return True

    def _look(self) -> None:
        """Write what is held once its time is over, or once a turn of the loop has brought none of another stream.

        To wait for longer would be to turn in vain.
        """
        if self._came != self._looked_at and self._loop.time() - self._held_since < HOLD_SECONDS - _EARLY:
            self._looked_at = self._came
            self._loop.call_soon(self._look)
            return
        due, self._due = self._due, []
        for write in due:
            try:
                write()
            except Exception:  # the others' pieces must not be lost with it
                log.exception("write_failed")
