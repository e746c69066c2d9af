"""A request's place in the queues of the backends that could serve it."""

import asyncio
from typing import TYPE_CHECKING

from athena.router.admission import Waiter
from athena.router.errors import QueueFullError

if TYPE_CHECKING:
    from athena.router.gate import Gate


class Ticket:
    """A request that waits at one or more gates at once: the first that has a slot for it takes it.

    `future` becomes that gate, the slot taken; None where no gate that it waited at is usable any more; or an error.
    """

    __slots__ = ("caller", "future", "places", "priority", "since", "size")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, caller: str, priority: int, size: int, since: float) -> None:
        self.caller = caller
        self.priority = priority
        self.size = size
        self.since = since
        self.future: asyncio.Future[Gate | None] = loop.create_future()
        self.places: dict[Gate, Waiter[Ticket]] = {}

    def claim(self, gate: "Gate") -> bool:
        """Take the slot that a gate has for it; returns false where nobody waits any more."""
        self._leave_all()
        if self.future.done():
            return False
        self.future.set_result(gate)
        return True

    def lose(self, gate: "Gate", error: QueueFullError | None) -> None:
        """Take note that a gate, which has taken it out of its queue, will not serve it."""
        self.places.pop(gate, None)
        if self.places or self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)

    def withdraw(self) -> None:
        """Wait no longer, and give back a slot that came too late."""
        self._leave_all()
        future = self.future
        if future.done() and not future.cancelled() and future.exception() is None:
            gate = future.result()
            if gate is not None:
                gate.leave()

    def _leave_all(self) -> None:
        places, self.places = self.places, {}
        for gate, waiter in places.items():
            gate.discard(waiter)
