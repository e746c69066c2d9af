"""A prompt's place in the router's real queues, within the simulation."""

from collections.abc import Callable

from athena.router.errors import QueueFullError
from athena.router.gate import Gate
from athena.router.ticket import Ticket
from bench.simulator.traces import Ask


class Place(Ticket):
    """A ticket that tells the simulation, instead of a task that waits, what became of it."""

    __slots__ = ("_done", "_lost", "_served", "ask")

    def __init__(
        self, ask: Ask, since: float, *, served: Callable[[Gate], None], lost: Callable[[QueueFullError | None], None]
    ) -> None:
        self.ask = ask
        self.caller = ask.tenant
        self.priority = 1
        self.size = len(ask.body)
        self.since = since
        self.places = {}
        self._served = served
        self._lost = lost
        self._done = False

    def claim(self, gate: Gate) -> bool:
        """Take the slot that a gate has for it."""
        places, self.places = self.places, {}
        for other, waiter in places.items():
            other.discard(waiter)
        if self._done:
            return False
        self._done = True
        self._served(gate)
        return True

    def lose(self, gate: Gate, error: QueueFullError | None) -> None:
        """Take note that a gate will not serve it."""
        self.places.pop(gate, None)
        if not self.places and not self._done:
            self._done = True
            self._lost(error)
