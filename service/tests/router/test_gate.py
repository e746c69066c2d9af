"""Slots, breaker and queue of one backend together, with a clock that the tests turn."""

import asyncio
from collections.abc import Iterator
from random import Random

import pytest
from structlog.testing import capture_logs

from athena.router.board import Board
from athena.router.breaker import Reason
from athena.router.errors import QueueFullError, TooManyWaitingError
from athena.router.gate import Alarm, Gate
from athena.router.shared_gate import SharedGate
from athena.router.ticket import Ticket
from athena.router.types import BackendType
from tests.support.clock import Clock

WITHIN = 30.0


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock(100.0)


@pytest.fixture(params=[1, 2], ids=["alone", "of-two-workers"])
def board(request: pytest.FixtureRequest) -> Iterator[Board]:
    """A board for one worker, or for two of which only one is there."""
    board = Board(request.param)
    yield board
    board.close()


def gate(
    board: Board, clock: Clock, name: str = "m", *, limit: int = 2, max_queue: int = 4, alarm: Alarm | None = None
) -> Gate:
    """Return a gate."""
    make = Gate if board.workers == 1 else SharedGate
    return make(
        board,
        board.slot("openai", name, "m"),
        backend_id=1,
        model="m",
        engine=BackendType.OPENAI,
        endpoint_url=name,
        limit=limit,
        max_queue=max_queue,
        random=Random(1),  # noqa: S311 - repeatable, nothing secret
        alarm=alarm or Alarm(),
        clock=clock,
    )


def ticket(clock: Clock, caller: str = "a", priority: int = 1) -> Ticket:
    """Return the ticket of a request."""
    loop = asyncio.get_running_loop()
    return Ticket(loop, caller=caller, priority=priority, size=100, since=clock.now)


def full(board: Board, clock: Clock, name: str = "m", *, limit: int = 2, max_queue: int = 4) -> Gate:
    """Return a gate all of whose slots are taken."""
    one = gate(board, clock, name, limit=limit, max_queue=max_queue)
    assert all(one.try_enter() for _ in range(limit))
    return one


def queued(one: Gate, clock: Clock, caller: str = "a", priority: int = 1) -> Ticket:
    """Return a ticket that waits at a gate."""
    waiting = ticket(clock, caller, priority)
    assert one.wait(waiting, WITHIN, make_room=False) is None
    return waiting


def nothing_is_left(*gates: Gate) -> bool:
    """Whether every count is back at nought, here and on the board."""
    return all(
        (one.in_use, one.queued, len(one.queue), one.slot.total_in_use(), one.slot.total_waiting()) == (0, 0, 0, 0, 0)
        for one in gates
    )


async def test_who_leaves_lets_in_who_waits(board: Board, clock: Clock) -> None:
    one = full(board, clock)
    first, second = queued(one, clock), queued(one, clock)
    assert not one.try_enter()
    one.leave()
    assert first.future.result() is one
    assert not second.future.done()
    assert one.state(clock.now).in_use == 2
    one.leave()
    assert second.future.result() is one
    one.leave()
    one.leave()
    assert nothing_is_left(one)


async def test_nobody_overtakes_those_who_wait(board: Board, clock: Clock) -> None:
    one = full(board, clock)
    waiting = queued(one, clock)
    one.limit = 3
    assert not one.try_enter()
    one.look_at_queue(clock.now, WITHIN)
    assert waiting.future.result() is one


async def test_a_request_that_waits_at_two_gates_takes_the_first_slot_and_no_other(board: Board, clock: Clock) -> None:
    one, other = full(board, clock, "one"), full(board, clock, "other")
    waiting = ticket(clock)
    for each in (one, other):
        assert each.wait(waiting, WITHIN, make_room=False) is None
    other.leave()
    assert waiting.future.result() is other
    assert one.queued == 0
    one.leave()
    assert (one.in_use, other.in_use) == (1, 2)


async def test_who_gives_up_waiting_leaves_every_queue_at_once(board: Board, clock: Clock) -> None:
    one, other = full(board, clock, "one"), full(board, clock, "other")
    waiting = ticket(clock)
    for each in (one, other):
        each.wait(waiting, WITHIN, make_room=False)
    waiting.future.cancel()
    waiting.withdraw()
    assert (one.queued, other.queued) == (0, 0)


async def test_a_slot_that_comes_too_late_goes_to_the_next(board: Board, clock: Clock) -> None:
    one = full(board, clock)
    late, next_ = queued(one, clock), queued(one, clock)
    one.leave()
    late.withdraw()  # it was cancelled while the slot was on its way
    assert next_.future.result() is one
    assert one.in_use == 2
    cancelled, last = queued(one, clock), queued(one, clock)
    cancelled.future.cancel()
    one.leave()
    assert last.future.result() is one


async def test_a_full_queue_refuses_with_the_time_that_the_wait_would_take(board: Board, clock: Clock) -> None:
    one = full(board, clock)
    for _ in range(4):  # replies that took 10 s each
        one.succeeded(clock.now, clock.now - 10.0)
        assert one.try_enter()
    for _ in range(4):
        queued(one, clock)
    refusal = one.wait(ticket(clock), WITHIN, make_room=True)
    assert type(refusal) is QueueFullError
    assert (refusal.status, refusal.retry_after) == (503, 25.0), "fifth in line, two at a time"


async def test_a_caller_that_fills_the_queue_makes_room_for_another(board: Board, clock: Clock) -> None:
    one = full(board, clock)
    greedy = [queued(one, clock, "greedy") for _ in range(4)]
    modest = ticket(clock, "modest")
    assert one.wait(modest, WITHIN, make_room=False) is not None
    assert one.wait(modest, WITHIN, make_room=True) is None
    error = greedy[-1].future.exception()
    assert isinstance(error, TooManyWaitingError)
    assert error.status == 429
    assert error.retry_after
    refusal = one.wait(ticket(clock, "greedy"), WITHIN, make_room=True)
    assert isinstance(refusal, TooManyWaitingError)


async def test_a_wait_that_is_known_to_be_too_long_is_refused_beforehand(board: Board, clock: Clock) -> None:
    one = full(board, clock, limit=1)
    for _ in range(4):
        one.succeeded(clock.now, clock.now - 20.0)
        assert one.try_enter()
    queued(one, clock)
    refusal = one.wait(ticket(clock), WITHIN, make_room=True)
    assert refusal is not None
    assert refusal.retry_after == 40.0
    assert one.wait(ticket(clock, "other", 0), WITHIN, make_room=True) is None, "whose turn comes before"


async def test_nobody_waits_longer_than_allowed(board: Board, clock: Clock) -> None:
    one = full(board, clock)
    old = queued(one, clock)
    clock.now += 20
    young = queued(one, clock)
    clock.now += 11
    one.look_at_queue(clock.now, WITHIN)
    assert isinstance(old.future.exception(), QueueFullError)
    assert not young.future.done()


async def test_those_who_wait_for_a_backend_that_leaves_the_route_look_elsewhere(board: Board, clock: Clock) -> None:
    one, other = full(board, clock, "one"), full(board, clock, "other")
    alone, both = queued(one, clock), ticket(clock)
    for each in (one, other):
        each.wait(both, WITHIN, make_room=False)
    one.open(clock.now, Reason.HUNG)
    one.look_at_queue(clock.now, WITHIN)
    assert alone.future.result() is None
    assert not both.future.done()
    other.leave()
    assert both.future.result() is other


async def test_a_backend_that_comes_back_serves_those_who_wait(board: Board, clock: Clock) -> None:
    one = full(board, clock)
    waiting = queued(one, clock)
    one.open(clock.now, Reason.HUNG)
    one.leave()
    assert not waiting.future.done()
    clock.now += 2
    one.generates(clock.now, clock.now - 0.5)
    assert waiting.future.result() is one


async def test_three_failures_shut_the_gate_and_a_good_trial_opens_it(board: Board, clock: Clock) -> None:
    one = gate(board, clock)
    with capture_logs() as logs:
        for _ in range(3):
            assert one.try_enter()
            one.failed(clock.now, clock.now)
        assert not one.try_enter()
        assert not one.try_trial(clock.now, clock.now)
        clock.now += 1.0
        assert one.try_trial(clock.now, clock.now)
        assert not one.try_trial(clock.now, clock.now)
        assert one.state(clock.now).state == "half_open"
        one.succeeded(clock.now + 0.5, clock.now)
    assert one.try_enter()
    assert [line["event"] for line in logs] == ["backend_breaker_opened", "backend_breaker_closed"]
    assert {(line["model"], line["backend_type"], line["endpoint"], line["reason"]) for line in logs} == {
        ("m", "openai", "m", "failures")
    }
    assert one.state(clock.now).trips == 1


async def test_a_trial_whose_caller_left_is_made_again(board: Board, clock: Clock) -> None:
    one = gate(board, clock)
    one.open(clock.now, Reason.UNREACHABLE)
    clock.now += 1.0
    assert one.try_trial(clock.now, clock.now)
    one.abandoned(clock.now, clock.now)
    assert one.try_trial(clock.now, clock.now)
    one.abandoned(clock.now, clock.now)
    assert nothing_is_left(one)


async def test_an_engine_that_names_a_time_is_left_alone_until_then(board: Board, clock: Clock) -> None:
    one = gate(board, clock)
    assert one.try_enter()
    one.pause(clock.now + 5)
    one.abandoned(clock.now, clock.now)
    assert not one.try_enter()
    assert not one.usable(clock.now)
    assert one.retry_in(clock.now) == 5
    assert one.state(clock.now).state == "closed", "it is not ill"
    clock.now += 5.1
    assert one.usable(clock.now)
    assert one.try_enter()


class Traffic:
    """Requests that come, wait, are served in every way, and leave, at three gates."""

    def __init__(self, board: Board, clock: Clock, random: Random) -> None:
        self.gates = [gate(board, clock, name, limit=limit) for name, limit in (("one", 1), ("two", 3), ("three", 8))]
        self.clock = clock
        self.random = random
        self.waiting: list[Ticket] = []
        self.inside: list[tuple[Gate, float]] = []

    def step(self) -> None:
        """Let something happen."""
        self.clock.now += self.random.expovariate(20)
        action = self.random.random()
        if action < 0.45:
            self.ask()
        elif action < 0.9 and self.inside:
            self.end()
        elif action < 0.95 and self.waiting:
            self.waiting.pop(self.random.randrange(len(self.waiting))).withdraw()
        elif action < 0.951:
            self.random.choice(self.gates).open(self.clock.now, Reason.HUNG)
        self.take_up()

    def ask(self) -> None:
        """Let a request come to one or more of the gates."""
        now, chosen = self.clock.now, self.random.sample(self.gates, self.random.randint(1, 3))
        entered = next((one for one in chosen if one.try_enter() or one.try_trial(now, now)), None)
        if entered is not None:
            self.inside.append((entered, now))
            return
        asking = ticket(self.clock, self.random.choice("abc"), self.random.randrange(3))
        for one in chosen:
            if one.usable(now):
                one.wait(asking, WITHIN, make_room=self.random.random() < 0.5)
        if asking.places:
            self.waiting.append(asking)

    def end(self) -> None:
        """End one of the requests that are served."""
        one, begun = self.inside.pop(self.random.randrange(len(self.inside)))
        now, outcome = self.clock.now, self.random.randrange(6)
        if outcome == 0:
            one.failed(now, begun)
        elif outcome <= 2:
            if outcome == 2:
                one.pause(now + 0.5)
            one.abandoned(now, begun)
        else:
            one.succeeded(now, begun)

    def take_up(self) -> None:
        """Let those go on whose wait is over."""
        for one in self.gates:
            one.look_at_queue(self.clock.now, WITHIN)
        for asking in tuple(self.waiting):
            if asking.future.done():
                self.waiting.remove(asking)
                if asking.future.exception() is None and (granted := asking.future.result()) is not None:
                    self.inside.append((granted, self.clock.now))

    def adds_up(self) -> bool:
        """Whether every gate counts what there is."""
        return all(
            one.in_use == sum(other is one for other, _ in self.inside)
            and one.queued == len(one.queue) == sum(one in asking.places for asking in self.waiting)
            for one in self.gates
        )


@pytest.mark.parametrize("seed", range(4))
async def test_after_ten_thousand_random_outcomes_every_count_is_nought(board: Board, clock: Clock, seed: int) -> None:
    traffic = Traffic(board, clock, Random(seed))  # noqa: S311 - repeatable, nothing secret
    for _ in range(10_000):
        traffic.step()
        assert traffic.adds_up()
    while traffic.inside or traffic.waiting:
        clock.now += 1.0
        while traffic.inside:
            traffic.end()
        traffic.take_up()
    assert nothing_is_left(*traffic.gates)
