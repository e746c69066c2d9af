"""What workers share: found by all, exact between them, and not lost with one that is killed."""

import asyncio
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from random import Random

import pytest
from structlog.testing import capture_logs

from athena.router.board import Board, BoardError
from athena.router.breaker import Reason
from athena.router.gate import Alarm, Gate
from athena.router.gates import Gates
from athena.router.shared_gate import SharedGate
from athena.router.ticket import Ticket
from athena.router.types import Backend, BackendType, Target

# The runner of the tests may have threads; the forked processes touch nothing that these could hold.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

LIMIT, MAX_QUEUE = 5, 10
ENDPOINT = "http://engine.example.internal"
BACKEND = Backend(
    id=1,
    model_name="m",
    backend_type=BackendType.OPENAI,
    endpoint_url=ENDPOINT,
    max_concurrency=LIMIT,
    max_queue=1000,
)


def gate(board: Board, model: str = "m", limit: int = LIMIT) -> Gate:
    """Return this worker's gate of a backend."""
    make = Gate if board.workers == 1 else SharedGate
    return make(
        board,
        board.slot("openai", ENDPOINT, model),
        backend_id=1,
        model=model,
        engine=BackendType.OPENAI,
        endpoint_url=ENDPOINT,
        limit=limit,
        max_queue=MAX_QUEUE,
        random=Random(1),  # noqa: S311 - repeatable, nothing secret
        alarm=Alarm(),
    )


@pytest.fixture
def board() -> Iterator[Board]:
    """A board for four workers."""
    board = Board(4)
    yield board
    board.close()


def fork(board: Board, worker: int, work: Callable[[Board], None]) -> int:
    """Run something in a process of its own that is one of the workers."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        board.attach(worker)
        work(board)
        status = 0
    finally:
        os._exit(status)


def ended_well(*pids: int) -> bool:
    """Wait for processes, and return whether all ended as they should."""
    return all(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 for pid in pids)


def test_every_worker_finds_the_same_slot_whoever_asks_first(board: Board) -> None:
    def change(board: Board) -> None:
        gate(board, "b").open(time.monotonic(), Reason.HUNG)
        assert gate(board, "a").try_enter()

    gate(board, "a")
    assert ended_well(fork(board, 1, change))
    assert gate(board, "a").state(0.0).in_use == 1
    assert gate(board, "b").state(0.0).state == "open"
    assert gate(board, "c").state(0.0).state == "closed"


def test_the_limit_is_exact_while_workers_come_and_go_at_once(board: Board) -> None:
    def come_and_go(board: Board) -> None:
        mine, random = gate(board), Random(board.worker)  # noqa: S311 - repeatable, nothing secret
        held = 0
        for _ in range(6000):
            if held and random.random() < 0.5:
                mine.leave()
                held -= 1
            elif mine.try_enter():
                held += 1
                assert mine.slot.total_in_use() <= LIMIT
        while held:
            mine.leave()
            held -= 1

    assert ended_well(*(fork(board, worker, come_and_go) for worker in range(4)))
    assert gate(board).state(0.0).in_use == 0


def test_the_bound_of_the_queue_is_exact_while_requests_come_to_all_workers_at_once(board: Board) -> None:
    def come_and_go(board: Board) -> None:
        mine, random = gate(board), Random(board.worker)  # noqa: S311 - repeatable, nothing secret
        loop = asyncio.new_event_loop()
        waiting: list[Ticket] = []
        refused = 0
        for number in range(8000):
            if waiting and random.random() < 0.5:
                waiting.pop().withdraw()
                continue
            ticket = Ticket(loop, caller=str(number % 3), priority=1, size=10, since=time.monotonic())
            if mine.wait(ticket, 30.0, make_room=number % 4 == 0) is None:
                waiting.append(ticket)
            else:
                refused += 1
            assert mine.slot.total_waiting() <= MAX_QUEUE
        assert refused, "otherwise the queue was never full"
        while waiting:
            waiting.pop().withdraw()

    one = gate(board)
    while one.try_enter():
        pass
    assert ended_well(*(fork(board, worker, come_and_go) for worker in range(1, 4)))
    assert one.slot.total_waiting() == 0


def test_a_worker_that_is_killed_in_the_middle_of_it_holds_nobody_up(board: Board) -> None:
    def hammer(board: Board) -> None:
        mine = gate(board)
        while True:
            if mine.try_enter():
                mine.leave()
            with mine.slot.locked():
                pass

    mine = gate(board)
    random = Random(7)  # noqa: S311 - repeatable, nothing secret
    for _ in range(10):
        pid = fork(board, 1, hammer)
        time.sleep(0.01 + random.random() * 0.01)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        board.forget_worker(1)
        assert mine.slot.total_in_use() == 0
        assert [mine.try_enter() for _ in range(LIMIT + 1)] == [True] * LIMIT + [False]
        for _ in range(LIMIT):
            mine.leave()


def test_a_worker_killed_while_it_holds_the_lock_gives_it_back(board: Board) -> None:
    locked, said = os.pipe()

    def hold(board: Board) -> None:
        with gate(board).slot.locked():
            os.write(said, b"\0")
            signal.pause()

    pid = fork(board, 1, hold)
    assert os.read(locked, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    started = time.monotonic()
    assert gate(board).try_enter()
    assert time.monotonic() - started < 1.0
    os.close(locked)
    os.close(said)


def test_a_dead_workers_slots_are_free_again_and_the_others_are_told(board: Board) -> None:
    def take_all(board: Board) -> None:
        mine = gate(board)
        while mine.try_enter():
            pass

    assert ended_well(fork(board, 2, take_all))
    mine = gate(board)
    assert not mine.try_enter()
    board.forget_worker(2)
    bell = board.bell
    assert bell is not None
    assert select.select([bell], [], [], 1.0)[0]
    board.hear()
    assert not select.select([bell], [], [], 0.0)[0]
    assert mine.try_enter()


def test_a_bell_that_nobody_hears_holds_nobody_up(board: Board) -> None:
    for _ in range(100_000):
        board.wake(3)
    board.attach(3)
    board.hear()
    board.wake(3)


def test_one_trial_is_made_by_all_workers_together(board: Board) -> None:
    gate(board).open(0.0, Reason.HUNG)
    now = time.monotonic()

    def try_it(board: Board) -> None:
        if gate(board).try_trial(now, now):
            os._exit(3)

    pids = [fork(board, worker, try_it) for worker in range(4)]
    assert sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids) == [0, 0, 0, 3]


def test_a_board_without_room_goes_on_with_limits_of_each_worker() -> None:
    board = Board(2, slots=4)
    with capture_logs() as logs:
        gates = [gate(board, f"model {number}", limit=1) for number in range(8)]
        again = gate(board, "model 7", limit=1)
    assert [line["event"] for line in logs] == ["board_full"] * 4, "once for each"
    assert all(one.try_enter() for one in gates)
    assert not any(one.try_enter() for one in (*gates, again))
    board.close()


async def serve_some(gates: Gates, requests: int, most: list[int]) -> None:
    """Let requests come to this worker's gate all at once; each holds its slot for a moment."""
    target = Target(backend=BACKEND, engine=BackendType.OPENAI, endpoint_url=BACKEND.endpoint_url)
    mine = gates.gate(target, known=True)

    async def one_request() -> None:
        if not mine.try_enter():
            loop = asyncio.get_running_loop()
            ticket = Ticket(loop, caller="a", priority=1, size=10, since=time.monotonic())
            assert mine.wait(ticket, 30.0, make_room=False) is None
            gates.watch_queues()
            assert await ticket.future is mine
        most.append(mine.slot.total_in_use())
        await asyncio.sleep(0.001)
        mine.leave()

    await asyncio.gather(*(one_request() for _ in range(requests)))


def test_requests_that_wait_in_several_workers_are_all_served_and_never_too_many_at_once(board: Board) -> None:
    def work(board: Board) -> None:
        async def go() -> None:
            most: list[int] = []
            random = Random(1)  # noqa: S311 - repeatable, nothing secret
            async with Gates(board, queue_seconds=30.0, random=random) as gates:
                async with asyncio.timeout(20):
                    await serve_some(gates, 150, most)
                # Others may still wait for what this one would hand on.
            assert max(most) <= LIMIT

        asyncio.run(go())

    started = time.monotonic()
    assert ended_well(*(fork(board, worker, work) for worker in range(4)))
    assert time.monotonic() - started < 10.0
    assert gate(board).state(0.0).in_use == 0
    assert gate(board).state(0.0).queued == 0


async def test_a_waiting_worker_is_woken_by_another_and_need_not_look(board: Board) -> None:
    mine_said, said = os.pipe()

    def hold(board: Board) -> None:
        mine = gate(board, limit=1)
        assert mine.try_enter()
        os.write(said, b"\0")
        time.sleep(0.1)
        mine.leave()

    pid = fork(board, 1, hold)
    os.read(mine_said, 1)
    random = Random(1)  # noqa: S311 - repeatable, nothing secret
    async with Gates(board, queue_seconds=30.0, random=random) as gates:
        mine = gates.gate(Target(backend=BACKEND, engine=BackendType.OPENAI, endpoint_url=ENDPOINT), known=True)
        mine.limit = 1
        ticket = Ticket(asyncio.get_running_loop(), caller="a", priority=1, size=10, since=time.monotonic())
        assert mine.wait(ticket, 30.0, make_room=False) is None
        assert await asyncio.wait_for(ticket.future, 2.0) is mine, "no clock of this worker's runs"
        mine.leave()
    assert ended_well(pid)
    os.close(said)
    os.close(mine_said)


@pytest.mark.parametrize("workers", [0, 65])
def test_a_board_is_for_a_number_of_workers_that_makes_sense(workers: int) -> None:
    with pytest.raises(BoardError):
        Board(workers)


def test_there_is_no_worker_beyond_the_last(board: Board) -> None:
    with pytest.raises(BoardError):
        board.attach(4)
