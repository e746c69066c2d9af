"""An engine that is suspected: when it is asked, and for how long others are preferred meanwhile."""

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from athena.router.board import CHECKED_AT, Board
from athena.router.gate import Gate
from athena.router.gates import Gates
from athena.router.periods import Periods
from athena.router.probing import Asker
from athena.router.types import Backend, BackendType, Target
from athena.router.upstream import UpstreamClient
from athena.router.watch import Watch
from tests.router.standin import until
from tests.support.clock import Clock

ENGINE = "http://engine.example.internal"
PERIODS = Periods(tick=0.005)


class Asked(Asker):
    """Asks nobody: the test gives the answers."""

    def __init__(self) -> None:
        super().__init__(UpstreamClient(), check_seconds=1.0, generate_seconds=1.0)
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.times = 0

    async def answers(self, engine: BackendType, endpoint_url: str) -> bool:
        """Wait for the test."""
        self.times += 1
        return await self.answer


class Worker:
    """What one worker knows of an engine's two models."""

    def __init__(self, board: Board, number: int, clock: Clock) -> None:
        board.attach(number)
        self.clock = clock
        self.asked = Asked()
        self.gates = Gates(board, queue_seconds=1.0, random=Random(1), clock=clock)  # noqa: S311 - nothing secret
        self.gate, self.other = (self._gate(model) for model in ("one", "other"))
        self.watch = Watch(self.gates, self.asked, PERIODS)

    async def suspect(self, gate: Gate) -> None:
        """Let the watch see that something is amiss at a model's backend."""
        gate.suspected = True
        await until(lambda: not gate.suspected, 10)

    def _gate(self, model: str) -> Gate:
        backend = Backend(id=1, model_name=model, backend_type=BackendType.OPENAI, endpoint_url=ENGINE)
        return self.gates.gate(Target(backend=backend, engine=BackendType.OPENAI, endpoint_url=ENGINE), known=True)


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board(2)
    yield board
    board.close()


async def test_a_suspicion_while_the_engine_is_being_asked_puts_the_next_question_off_no_further(board: Board) -> None:
    worker = Worker(board, 0, Clock(100.0))
    async with worker.watch:
        await worker.suspect(worker.gate)
        begun = worker.clock.now
        for gate in (worker.gate, worker.other):
            worker.clock.now += 0.3
            await worker.suspect(gate)
            assert gate.cells[CHECKED_AT] == begun
        assert worker.asked.times == 1


async def test_a_worker_that_ends_before_it_is_answered_takes_no_other_workers_doubt_back(board: Board) -> None:
    clock = Clock(100.0)
    first, second = (Worker(board, number, clock) for number in range(2))
    async with second.watch:
        async with first.watch:
            await first.suspect(first.gate)
            clock.now += 0.3
            await second.suspect(second.gate)
        assert second.asked.times == 1
        assert second.gate.in_doubt(clock.now)
        second.asked.answer.set_result(True)
        await until(lambda: not second.gate.in_doubt(clock.now), 10)


async def test_an_answer_to_one_worker_ends_the_doubt_of_all(board: Board) -> None:
    clock = Clock(100.0)
    first, second = (Worker(board, number, clock) for number in range(2))
    async with first.watch, second.watch:
        await first.suspect(first.gate)
        clock.now += 0.3
        await second.suspect(second.gate)
        first.asked.answer.set_result(True)
        await until(lambda: not second.gate.in_doubt(clock.now), 10)
        second.asked.answer.set_result(True)
