"""Stays awake for a moment where what comes next has been coming at once: a lone caller's answer, or its next request.

To put a process to sleep and wake it up again takes 50 µs and more on a virtual machine, twice for each request: more
than all that is done for it. So the event loop looks for what comes next without sleeping, for as long as that has been
coming within lately; a kernel does the same before it halts a processor. Engines that take their time are slept for.
"""

import asyncio
import time
from collections.abc import Callable

FIRST_SECONDS, LONGEST_SECONDS = 0.0001, 0.0005


class Wakefulness:
    """Keeps one event loop from sleeping, while it is `awake`. Its times are those of `clock`, in seconds."""

    __slots__ = ("_answer", "_clock", "_loop", "_request", "_since", "_until", "awake")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.perf_counter) -> None:
        self._loop = loop
        self._clock = clock
        self.awake = False
        self._since = 0.0  # when something came last
        self._request = self._answer = 0.0  # how long to stay awake for each
        self._until = 0.0

    def asked(self) -> None:
        """A request has come: stay awake for as long as its answer may take."""
        self._request = self._next(self._request)
        self._stay(self._answer)

    def answering(self) -> None:
        """The answer has begun to come: stay awake for its first piece."""
        self._answer = self._next(self._answer)
        self._stay(self._answer)

    def answered(self) -> None:
        """The answer has been given: stay awake for as long as the next request may take."""
        self._since = self._clock()
        self._stay(self._request)

    def _next(self, before: float) -> float:
        now = self._clock()
        passed, self._since = now - self._since, now
        return span(before, passed)

    def _stay(self, seconds: float) -> None:
        self._until = self._since + seconds
        if seconds and not self.awake:
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
