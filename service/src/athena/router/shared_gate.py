"""A gate whose limit holds for several worker processes together."""

import fcntl

from athena.router.admission import Waiter
from athena.router.board import SHUT, Slot
from athena.router.gate import Gate
from athena.router.ticket import Ticket


class SharedGate(Gate):
    """A gate of one of several workers: the limit holds for all of them together."""

    def _attach(self, slot: Slot) -> None:
        super()._attach(slot)
        self._handing_on = False
        self._all_in_use, self._all_waiting, _ = slot.of_workers

    def try_enter(self) -> bool:
        """Take a slot if there is one, nobody waits for it in any worker and the backend is in the route."""
        if self.cells[SHUT] or sum(self._all_waiting):
            return False
        return self._take()

    def leave(self) -> None:
        """Give the slot back, to whoever waits for it in any worker."""
        self.in_use -= 1
        self.cells[self._own] = self.in_use
        if sum(self._all_waiting):
            self._let_next_go_on()

    def hand_on(self) -> None:
        """Give the slots that are free to those that wait for them here.

        Whoever is given one leaves all queues, and so lets each of those gates look whether a slot was meant for it.
        That look must not begin here again while it goes on: it would go as deep as there are slots.
        """
        if self._handing_on:
            return
        self._handing_on = True
        try:
            super().hand_on()
        finally:
            self._handing_on = False

    def _line_up(self, waiter: Waiter[Ticket]) -> bool:
        # Under the lock: workers that look at the same time would else both take the last place.
        with self.slot.locked():
            return sum(self._all_waiting) < self.queue.limit and super()._line_up(waiter)

    def discard(self, waiter: Waiter[Ticket]) -> None:
        """Take one out of the queue who waits no longer; a slot may have been meant for it."""
        super().discard(waiter)
        if sum(self._all_in_use) < self.limit:
            self._let_next_go_on()

    def _let_next_go_on(self) -> None:
        worker = self.slot.longest_waiting_worker()
        if worker == self._board.worker:
            self.hand_on()
        elif worker is not None:
            self._board.wake(worker)

    def _take(self) -> bool:
        descriptor, number = self.slot.lock_at
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, number)
        try:
            if sum(self._all_in_use) >= self.limit:
                return False
            self.in_use += 1
            self.cells[self._own] = self.in_use
        finally:
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, number)
        return True
