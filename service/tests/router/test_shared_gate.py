"""The gates of several workers: whose turn it is over all of them, and what is left behind when one is killed."""

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from athena.router.board import Board
from athena.router.gate import Alarm
from athena.router.shared_gate import SharedGate
from athena.router.ticket import Ticket
from athena.router.types import BackendType
from tests.support.clock import Clock

LIMIT = 256  # slots of an OpenAI-compatible backend whose row says nothing


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock(100.0)


@pytest.fixture
def board() -> Iterator[Board]:
    """A board for two workers, of which this process is the first."""
    board = Board(2)
    yield board
    board.close()


def gate(board: Board, clock: Clock, endpoint: str = "one", *, limit: int = LIMIT) -> SharedGate:
    """Return the gate of a backend, of the worker as which the board is attached."""
    return SharedGate(
        board,
        board.slot("openai", endpoint, "m"),
        backend_id=1,
        model="m",
        engine=BackendType.OPENAI,
        endpoint_url=endpoint,
        limit=limit,
        max_queue=4 * LIMIT,
        random=Random(1),  # noqa: S311 - repeatable, nothing secret
        alarm=Alarm(),
        clock=clock,
    )


def ticket(clock: Clock, caller: str = "a", priority: int = 1) -> Ticket:
    """Return a request that waits from now on."""
    loop = asyncio.get_running_loop()
    return Ticket(loop, caller=caller, priority=priority, size=100, since=clock.now)


async def leave(ticket: Ticket) -> None:
    """Give back the slot that a request has been given."""
    assert ticket.future.done()
    gate = await ticket.future
    assert gate is not None
    gate.leave()


async def test_the_many_slots_of_a_killed_worker_go_to_those_who_wait_at_two_gates(board: Board, clock: Clock) -> None:
    gates = [gate(board, clock, endpoint) for endpoint in ("one", "two")]
    for one in gates:
        one.slot.of_workers[0][1] = LIMIT  # the other worker has all slots in use
    tickets = [ticket(clock, caller=f"c{number % 7}") for number in range(600)]
    for waiting in tickets:
        assert [one.wait(waiting, 60.0, make_room=False) for one in gates] == [None, None]
    board.forget_worker(1)
    for one in gates:  # each worker is woken and looks
        one.look_at_queue(clock.now, 60.0)
    served = [waiting for waiting in tickets if waiting.future.done()]
    assert len(served) == sum(one.in_use for one in gates) == 2 * LIMIT
    assert [one.queued for one in gates] == [len(tickets) - 2 * LIMIT] * 2
    for waiting in served + [waiting for waiting in tickets if waiting not in served]:
        await leave(waiting)
    assert [(one.in_use, one.queued) for one in gates] == [(0, 0), (0, 0)]
