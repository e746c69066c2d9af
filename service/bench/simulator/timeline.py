"""Simulated time: what is to happen, in order."""

from collections.abc import Callable
from heapq import heappop, heappush


class Timeline:
    """`now` is in seconds. It begins late enough for the router not to take it for the time before the first event."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0

    def clock(self) -> float:
        """Return the time, as the router's parts ask for it."""
        return self.now

    def at(self, time: float, happens: Callable[[], None]) -> None:
        """Let something happen at a time, after all that was said to happen then before."""
        self._sequence += 1
        heappush(self._events, (max(time, self.now), self._sequence, happens))

    def run(self) -> None:
        """Let everything happen, with all that follows from it."""
        while self._events:
            self.now, _, happens = heappop(self._events)
            happens()
