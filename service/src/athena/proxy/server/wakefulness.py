"""Stays awake for a moment after a lone caller's request or answer, where the next one has been coming at once.

To put a process to sleep and wake it up again takes 50 µs and more on a virtual machine, twice for each request: more
than all that is done for it. So the event loop looks for what comes next without sleeping, for as long as that has been
coming within lately; a kernel does the same before it halts a processor. Engines that take their time are slept for.
"""

import asyncio
import time
from collections.abc import Callable

FIRST_SECONDS, LONGEST_SECONDS = 0.00005, 0.0002


class Wakefulness:
    """Keeps one event loop from sleeping, while it is `awake`. Its times are those of `clock`, in seconds."""

    __slots__ = ("_clock", "_loop", "_since", "_span", "_until", "awake")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.perf_counter) -> None:
        self._loop = loop
        self._clock = clock
        self.awake = False
        self._since = 0.0  # when something came last
        self._span = 0.0  # how long to stay awake after that
        self._until = 0.0

    def came(self) -> None:
        """Something has come: stay awake for as long as the next may take, by how long this one took."""
        now = self._clock()
        self._span = span(self._span, now - self._since)
        self._since = now
        self._until = now + self._span
        if self._span and not self.awake:
            self.awake = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Have the loop turn once more: it does not sleep while there is something to call."""
        if self._clock() < self._until:
            self._loop.call_soon(self._look)
        else:
            self.awake = False


def span(before: float, passed: float) -> float:
    """Return how long to stay awake for the next, where the last one took `passed` seconds: longer, or not at all."""
    if passed > LONGEST_SECONDS:
        return 0.0
    return min(LONGEST_SECONDS, max(FIRST_SECONDS, 2 * before))
