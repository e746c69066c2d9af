"""The order in which requests that wait for a backend are served: bounded, fair by caller, and never starving anybody.

Pure: no clock and no I/O. Three priority classes, each a start-time fair queue over flows (A. Goyal and others, 1996):
a flow is a caller's short or its long prompts, and costs what its prompts weigh.
"""

from collections import deque
from heapq import heappop, heappush
from typing import Generic, TypeVar

PRIORITIES = 3
AGED_SECONDS = 5.0  # whoever of a lower class has waited so long is served out of turn,
AGED_EVERY = 4  # but only at each fourth place that becomes free
LONG_PROMPT = 8 * 1024  # bytes; longer prompts of a caller queue apart from its short ones
_COST_UNIT = 2 * 1024  # bytes of prompt that weigh as much as answering at all
_REMEMBERED = 4096  # flows whose end is known after they have left the queue
_T = TypeVar("_T")


class Waiter(Generic[_T]):
    """One place in the queue. `live` is false once it was served or discarded."""

    __slots__ = ("caller", "cost", "flow", "item", "live", "priority", "since")

    def __init__(self, item: _T, caller: str, priority: int, size: int, since: float) -> None:
        self.item = item
        self.caller = caller
        self.priority = min(max(priority, 0), PRIORITIES - 1)
        self.cost = 1.0 + size / _COST_UNIT
        self.flow = (caller, size > LONG_PROMPT)
        self.since = since
        self.live = True


class _Flow(Generic[_T]):
    """The waiters of one flow in one class. `start` is the virtual time at which its first one begins."""

    __slots__ = ("count", "start", "waiters")

    def __init__(self, start: float) -> None:
        self.start = start
        self.count = 0
        self.waiters: deque[Waiter[_T]] = deque()

    def first(self) -> Waiter[_T]:
        waiters = self.waiters
        while not waiters[0].live:
            waiters.popleft()
        return waiters[0]


class _Class(Generic[_T]):
    """One priority class: its flows by their start, and its waiters by their age."""

    def __init__(self) -> None:
        self.count = 0
        self.flows: dict[tuple[str, bool], _Flow[_T]] = {}
        self._order: list[tuple[float, int, tuple[str, bool], _Flow[_T]]] = []
        self._finished: dict[tuple[str, bool], float] = {}
        self._ages: deque[Waiter[_T]] = deque()
        self._time = 0.0
        self._sequence = 0

    def add(self, waiter: Waiter[_T]) -> None:
        flow = self.flows.get(waiter.flow)
        if flow is None:
            # A flow that was served above its share a moment ago begins where it ended, any other one now.
            flow = _Flow(max(self._time, self._finished.get(waiter.flow, 0.0)))
            self.flows[waiter.flow] = flow
            self._line_up(waiter.flow, flow)
        flow.waiters.append(waiter)
        flow.count += 1
        self.count += 1
        self._ages.append(waiter)

    def next(self) -> Waiter[_T]:
        """Return whose turn it is."""
        while True:
            start, _, name, flow = self._order[0]
            current = self.flows.get(name) is flow
            if current and start == flow.start:
                return flow.first()
            heappop(self._order)
            if current:  # it was served meanwhile
                self._line_up(name, flow)

    def oldest(self) -> Waiter[_T] | None:
        ages = self._ages
        while ages and not ages[0].live:
            ages.popleft()
        return ages[0] if ages else None

    def serve(self, waiter: Waiter[_T]) -> None:
        """Take a waiter out and charge its flow; its flow's turn comes again after as much as it costs."""
        flow = self.flows[waiter.flow]
        self._time = max(self._time, flow.start)
        flow.start += waiter.cost
        self._finished[waiter.flow] = flow.start
        self.discard(waiter)

    def discard(self, waiter: Waiter[_T]) -> None:
        """Take a waiter out without charging its flow."""
        waiter.live = False
        self.count -= 1
        flow = self.flows[waiter.flow]
        flow.count -= 1
        if not flow.count:
            del self.flows[waiter.flow]
        elif len(flow.waiters) > 2 * flow.count + 16:
            flow.waiters = deque(other for other in flow.waiters if other.live)
        if len(self._ages) > 2 * self.count + 64:
            self._ages = deque(other for other in self._ages if other.live)
        if len(self._order) > 2 * len(self.flows) + 64:
            self._order = [entry for entry in self._order if self.flows.get(entry[2]) is entry[3]]
            self._order.sort()
        if not self.count or len(self._finished) > 2 * len(self.flows) + _REMEMBERED:
            self._finished.clear()

    def _line_up(self, name: tuple[str, bool], flow: _Flow[_T]) -> None:
        self._sequence += 1
        heappush(self._order, (flow.start, self._sequence, name, flow))


class FairQueue(Generic[_T]):
    """Who waits for one backend in one process; at most `limit` at once, which its user sees to by `full`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._classes: tuple[_Class[_T], ...] = tuple(_Class() for _ in range(PRIORITIES))
        self._count = 0
        self._callers: dict[str, int] = {}
        self._since_aged = 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Whether nobody more may wait."""
        return self._count >= self.limit

    def add(self, waiter: Waiter[_T]) -> None:
        """Let one wait."""
        self._classes[waiter.priority].add(waiter)
        self._count += 1
        self._callers[waiter.caller] = self._callers.get(waiter.caller, 0) + 1

    def pop(self, now: float) -> Waiter[_T] | None:
        """Take out whose turn it is, or return None."""
        if not self._count:
            return None
        waiter = self._choose(now)
        self._classes[waiter.priority].serve(waiter)
        self._forget(waiter)
        return waiter

    def discard(self, waiter: Waiter[_T]) -> None:
        """Take one out who waits no longer; no harm if it is not in."""
        if waiter.live:
            self._classes[waiter.priority].discard(waiter)
            self._forget(waiter)

    def expire(self, before: float) -> list[Waiter[_T]]:
        """Take out and return all who have waited since before that time."""
        expired = []
        for class_ in self._classes:
            while (waiter := class_.oldest()) is not None and waiter.since < before:
                self.discard(waiter)
                expired.append(waiter)
        return expired

    def waiters(self) -> list[Waiter[_T]]:
        """Return all who wait."""
        return [
            waiter
            for class_ in self._classes
            for flow in class_.flows.values()
            for waiter in flow.waiters
            if waiter.live
        ]

    def oldest_since(self) -> float:
        """Return since when the one waits who waits longest; 0 without any."""
        return min((waiter.since for class_ in self._classes if (waiter := class_.oldest()) is not None), default=0.0)

    def position(self, waiter: Waiter[_T]) -> int:
        """Return about how many would be served before a newcomer and with it: 1 where it is next.

        In rounds over the flows of its own class, after all of the classes above.
        """
        class_ = self._classes[waiter.priority]
        own = class_.flows.get(waiter.flow)
        rounds = own.count + 1 if own is not None else 1
        others = len(class_.flows) - (own is not None)
        above = sum(self._classes[priority].count for priority in range(waiter.priority))
        return above + min(class_.count + 1, rounds + rounds * others)

    def takes_more_than_its_share(self, caller: str) -> bool:
        """Whether one of several callers fills more of the queue than each of them could."""
        callers = len(self._callers) + (caller not in self._callers)
        return callers > 1 and self._callers.get(caller, 0) + 1 > self.limit / callers

    def to_make_room_for(self, newcomer: Waiter[_T]) -> Waiter[_T] | None:
        """Return who should leave a full queue for a newcomer; None where it is the newcomer itself.

        The caller that fills more than its share, and more than the newcomer's, gives up the last one of its least
        urgent.
        """
        caller, count = max(self._callers.items(), key=lambda pair: pair[1], default=("", 0))
        own = self._callers.get(newcomer.caller, 0)
        callers = len(self._callers) + (not own)
        if count <= max(own + 1, self.limit / callers):
            return None
        for class_ in reversed(self._classes):
            for flow_name in ((caller, True), (caller, False)):
                if (flow := class_.flows.get(flow_name)) is not None:
                    return next(waiter for waiter in reversed(flow.waiters) if waiter.live)
        return None

    def _choose(self, now: float) -> Waiter[_T]:
        first = next(class_ for class_ in self._classes if class_.count)
        self._since_aged += 1
        if self._since_aged >= AGED_EVERY:
            waiting = [waiter for class_ in self._classes if (waiter := class_.oldest()) is not None]
            oldest = min(waiting, key=lambda waiter: waiter.since)
            if now - oldest.since > AGED_SECONDS:
                self._since_aged = 0
                return oldest
        return first.next()

    def _forget(self, waiter: Waiter[_T]) -> None:
        self._count -= 1
        left = self._callers[waiter.caller] - 1
        if left:
            self._callers[waiter.caller] = left
        else:
            del self._callers[waiter.caller]
