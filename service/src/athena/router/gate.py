"""The way to one backend: its breaker, its slots, and the queue behind them, shared with the other workers."""

import math
import time
from collections.abc import Callable
from random import Random
from typing import Final, Protocol

import structlog

from athena.router import breaker as rules
from athena.router.admission import FairQueue, Waiter
from athena.router.backend_state import BackendState
from athena.router.board import (
    CHANGED_AT,
    DOUBTED_UNTIL,
    FAILURES,
    GENERATED_AT,
    LEVEL,
    PAUSED_UNTIL,
    PROGRESS_AT,
    REASON,
    RETRY_AT,
    SAMPLES,
    SERVICE_SECONDS,
    SHUT,
    STATE,
    TRIPS,
    Board,
    Slot,
)
from athena.router.breaker import Breaker, Reason, State
from athena.router.errors import QueueFullError, TooManyWaitingError
from athena.router.ticket import Ticket
from athena.router.types import BackendType
from athena.router.upstream_reply import UpstreamReply

_SMOOTHING: Final = 8  # the mean service time follows the last few replies
_SAMPLES: Final = 4.0  # replies after which the mean is trusted
_RETRY_SECONDS = (1.0, 60.0)  # the bounds of what a caller is told about when to come again
_FOR_EVER = -math.inf  # since when an engine owes an answer that has never given one
log = structlog.get_logger()


class Flight(Protocol):
    """A request at a backend, until its outcome is known."""

    begun: float
    upstream: UpstreamReply

    @property
    def waits_for_first_token(self) -> bool:
        """Whether nothing of it has been shown to the caller, so that it may go elsewhere."""
        ...

    @property
    def movable(self) -> bool:
        """Whether its route has another backend that could serve it now."""
        ...

    @property
    def bound(self) -> bool:
        """Whether it shows nothing until its end, and no other backend could serve it now."""
        ...

    @property
    def avoidable(self) -> bool:
        """Whether its route has another backend, in the route and not in doubt, that requests could go to instead."""
        ...

    @property
    def patience(self) -> float:
        """How long a sound engine may be silent about it, in seconds."""
        ...


class Alarm:
    """What all gates of a loop call when a request is made at an engine that has owed an answer for `after` seconds.

    `call` is told of the gate and of the request. Nobody listens until a watch sets both.
    """

    def __init__(self) -> None:
        self.after = math.inf
        self.call: Callable[[Gate, Flight], None] = _nobody


class Gate:
    """One per backend and process. `try_enter` and `leave` are all that a request costs while there is room.

    Whoever entered leaves by exactly one of `succeeded`, `failed`, `abandoned` and `leave`.
    """

    def __init__(
        self,
        board: Board,
        slot: Slot,
        *,
        backend_id: int | None,
        model: str,
        engine: BackendType,
        endpoint_url: str,
        limit: int,
        max_queue: int,
        random: Random,
        alarm: Alarm,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend_id = backend_id
        self.model = model
        self.engine = engine
        self.endpoint_url = endpoint_url
        self.limit = limit
        self.in_use = 0
        self.queued = 0
        self.last_failure = ""  # in words; of this process
        self.suspected = False  # it should be asked at once whether it answers
        self.flights: set[Flight] = set()
        # When the first request was made of those since the engine last answered this process one; 0 if it owes none.
        self.owes_since = _FOR_EVER
        self._attach(slot)
        self.queue: FairQueue[Ticket] = FairQueue(max_queue)
        self._board = board
        self._own = slot.in_use
        self._random = random
        self._alarm = alarm
        self.now = clock

    def _attach(self, slot: Slot) -> None:
        self.slot = slot
        self.cells = slot.cells

    # Entering and leaving

    def try_enter(self) -> bool:
        """Take a slot if there is one, nobody waits for it and the backend is in the route."""
        if self.queued or self.in_use >= self.limit or self.cells[SHUT]:
            return False
        self.in_use += 1
        self.cells[self._own] = self.in_use
        return True

    def leave(self) -> None:
        """Give the slot back, to whoever waits for it."""
        self.in_use -= 1
        self.cells[self._own] = self.in_use
        if self.queued:
            self.hand_on()

    def try_trial(self, now: float, due: float) -> bool:
        """Take a slot as the one trial of a backend that is out of the route, if one was due at the time `due`."""
        with self.slot.locked():
            before = self.breaker
            if not rules.trial_is_due(before, due):
                return False
            self._store(rules.on_trial(before, now))
            self.in_use += 1
            self.cells[self._own] = self.in_use
        return True

    def try_anyway(self) -> bool:
        """Take a slot of a backend that is out of the route only because requests failed one after the other.

        It answers, though not always well: better than nothing where the route has no other left.
        """
        return self.breaker.reason is Reason.FAILURES and self.cells[PAUSED_UNTIL] <= self.now() and self._take()

    def usable(self, now: float) -> bool:
        """Whether the backend is in the route."""
        cells = self.cells
        if not cells[SHUT]:
            return True
        if cells[STATE] or cells[PAUSED_UNTIL] > now:
            return False
        with self.slot.locked():
            self._store(self.breaker)
        return not cells[SHUT]

    def in_doubt(self, now: float) -> bool:
        """Whether the engine is just being asked if it lives, so that another one is to be preferred."""
        return self.cells[DOUBTED_UNTIL] > now

    def hand_on(self) -> None:
        """Give the slots that are free to those that wait for them here."""
        now = self.now()
        while self.queued and self.usable(now) and self._take():
            waiter = self.queue.pop(now)
            self._count_queue()
            if waiter is None or not waiter.item.claim(self):
                self._put_back()

    # Outcomes

    def asked(self, now: float, flight: Flight) -> None:
        """Take note of a request that has been made, and raise the alarm if the engine owes an answer for long."""
        since = self.owes_since
        if not since:
            self.owes_since = now
        elif now - since >= self._alarm.after:
            self._alarm.call(self, flight)

    def answered(self) -> None:
        """Take note that the engine has answered a request, well or not."""
        self.owes_since = 0.0

    def succeeded(self, now: float, begun: float) -> None:
        """Leave after a whole reply that was asked for at `begun`."""
        cells = self.cells
        seconds = now - begun
        if cells[FAILURES] or cells[SHUT]:
            self.generates(now, begun)
        cells[GENERATED_AT] = now
        mean = cells[SERVICE_SECONDS]
        if cells[SAMPLES] < _SAMPLES:
            cells[SAMPLES] += 1
            cells[SERVICE_SECONDS] = mean + (seconds - mean) / cells[SAMPLES]
        else:
            cells[SERVICE_SECONDS] = mean + (seconds - mean) / _SMOOTHING
        self.leave()

    def failed(self, now: float, begun: float, *, unreachable: bool = False) -> None:
        """Leave after a reply that began at `begun` and did not come, or broke off; `unreachable`: nothing came."""
        self.suspected |= unreachable
        reason = Reason.UNREACHABLE if unreachable else Reason.FAILURES
        self._change(lambda breaker: rules.after_failure(breaker, now, begun, self._random.random(), reason))
        self.leave()

    def abandoned(self, now: float, begun: float) -> None:
        """Leave without an outcome: the caller left, or the request itself was wrong."""
        if self.cells[SHUT]:
            self._change(lambda breaker: rules.trial_abandoned(breaker, now, begun))
        self.leave()

    def pause(self, until: float) -> None:
        """Send nothing until then: the engine said that it is overloaded."""
        with self.slot.locked():
            self.cells[PAUSED_UNTIL] = until
            self._store(self.breaker)

    # The breaker

    @property
    def breaker(self) -> Breaker:
        """What is known of the backend's health."""
        cells = self.cells
        return Breaker(
            State(int(cells[STATE])),
            int(cells[FAILURES]),
            int(cells[LEVEL]),
            cells[CHANGED_AT],
            cells[RETRY_AT],
            Reason(int(cells[REASON])),
        )

    def open(self, now: float, reason: Reason) -> None:
        """Take the backend out of the route at once."""
        self._change(lambda breaker: rules.opened(breaker, now, reason, self._random.random()))

    def generates(self, now: float, begun: float) -> None:
        """Take note that what was asked at `begun` was answered well."""
        self._change(lambda breaker: rules.after_success(breaker, now, begun))
        if self.queued:
            self.hand_on()

    def postpone(self, until: float) -> None:
        """Take note that a probe looks after the backend: no request has to make a trial before that time."""
        self._change(lambda breaker: rules.postponed(breaker, until))

    def usual_seconds(self) -> float | None:
        """Return how long a whole reply takes on average, None where too few have come."""
        return self.cells[SERVICE_SECONDS] if self.cells[SAMPLES] >= _SAMPLES else None

    def alive_at(self) -> float:
        """Return when a request last showed that the backend generates."""
        return max(self.cells[GENERATED_AT], self.cells[PROGRESS_AT])

    def retry_in(self, now: float) -> float:
        """Return how long the backend will stay out of the route at least, as far as is known."""
        cells = self.cells
        until = cells[RETRY_AT] if cells[STATE] == State.OPEN else cells[PAUSED_UNTIL]
        return max(until - now, 0.0)

    def _change(self, rule: Callable[[Breaker], Breaker]) -> None:
        with self.slot.locked():
            before = self.breaker
            after = rule(before)
            if after == before:
                return
            self._store(after)
        if (before.state is State.CLOSED) != (after.state is State.CLOSED):
            out = before.state is State.CLOSED
            self.cells[TRIPS] += out
            (log.warning if out else log.info)(
                "backend_breaker_opened" if out else "backend_breaker_closed",
                model=self.model,
                backend_type=self.engine,
                endpoint=self.endpoint_url,
                reason=(after if out else before).reason.name.lower(),
            )

    def _store(self, breaker: Breaker) -> None:
        cells = self.cells
        cells[STATE] = breaker.state
        cells[FAILURES] = breaker.failures
        cells[LEVEL] = breaker.level
        cells[CHANGED_AT] = breaker.changed_at
        cells[RETRY_AT] = breaker.retry_at
        cells[REASON] = breaker.reason
        cells[SHUT] = breaker.state is not State.CLOSED or cells[PAUSED_UNTIL] > self.now()

    # The queue

    def wait(self, ticket: Ticket, within: float, *, make_room: bool) -> QueueFullError | None:
        """Let a ticket wait here, or return why it may not: no room, or no slot to be expected `within` seconds.

        With `make_room` a full queue gives up one of a caller who takes more than its share of it.
        """
        waiter = Waiter(ticket, ticket.caller, ticket.priority, ticket.size, ticket.since)
        seconds = self.expected_wait(self.queue.position(waiter))
        if seconds > within and self.cells[SAMPLES] >= _SAMPLES:
            over = self.queue.takes_more_than_its_share(ticket.caller)
            return self._refusal(seconds, f"the wait would be about {seconds:.0f} s", over=over)
        while not self._line_up(waiter):
            other = self.queue.to_make_room_for(waiter) if make_room else None
            if other is None:
                over = self.queue.takes_more_than_its_share(ticket.caller)
                return self._refusal(seconds, f"{len(self.queue)} requests wait already", over=over)
            self.discard(other)
            other.item.lose(self, self._refusal(seconds, "others wait as well", over=True))
        ticket.places[self] = waiter
        return None

    def _line_up(self, waiter: Waiter[Ticket]) -> bool:
        if self.queue.full:
            return False
        self.queue.add(waiter)
        self._count_queue()
        return True

    def discard(self, waiter: Waiter[Ticket]) -> None:
        """Take one out of the queue who waits no longer."""
        self.queue.discard(waiter)
        self._count_queue()

    def expected_wait(self, position: int) -> float:
        """Return about how long it takes until somebody at this position is served, in seconds; 0 if not known."""
        others = self.slot.total_waiting() - self.queued
        if others > 0:
            position += position * others // (self.queued + 1)
        return position * float(self.cells[SERVICE_SECONDS]) / self.limit

    def look_at_queue(self, now: float, longest: float) -> None:
        """Refuse those who have waited for too long, send on those who wait for a backend that left the route."""
        for waiter in self.queue.expire(now - longest):
            self._count_queue()
            error = self._refusal(self.expected_wait(len(self.queue) + 1), f"no slot within {longest:g} s")
            waiter.item.lose(self, error)
        if not self.queued:
            return
        if self.usable(now):
            self.hand_on()
            return
        for waiter in self.queue.waiters():
            self.discard(waiter)
            waiter.item.lose(self, None)

    def state(self, now: float) -> BackendState:
        """Return what to show."""
        breaker = self.breaker
        return BackendState(
            id=self.backend_id,
            model=self.model,
            engine=self.engine.value,
            endpoint=self.endpoint_url,
            state=breaker.state.name.lower(),
            reason=breaker.reason.name.lower() if breaker.reason else "",
            in_use=self.slot.total_in_use(),
            limit=self.limit,
            queued=self.slot.total_waiting(),
            max_queue=self.queue.limit,
            service_seconds=self.cells[SERVICE_SECONDS],
            retry_in=self.retry_in(now),
            trips=int(self.cells[TRIPS]),
        )

    def _refusal(self, seconds: float, why: str, *, over: bool = False) -> QueueFullError:
        shortest, longest = _RETRY_SECONDS
        retry_after = min(max(seconds, shortest), longest)
        detail = f"The backends of model {self.model} are all at work, and {why}."
        return (TooManyWaitingError if over else QueueFullError)(detail, retry_after=retry_after)

    def _count_queue(self) -> None:
        self.queued = len(self.queue)
        self.cells[self.slot.waiting] = self.queued
        self.cells[self.slot.head] = self.queue.oldest_since()

    def _take(self) -> bool:
        """Take a slot whether or not others wait for one."""
        if self.in_use >= self.limit:
            return False
        self.in_use += 1
        self.cells[self._own] = self.in_use
        return True

    def _put_back(self) -> None:
        self.in_use -= 1
        self.cells[self._own] = self.in_use


def _nobody(gate: Gate, flight: Flight) -> None:
    """Hear no alarm."""
