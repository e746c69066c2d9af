"""What the requests that are under way show of a backend, on a clock that the tests turn."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from athena.router.board import PROGRESS_AT, Board
from athena.router.breaker import Reason
from athena.router.gate import Alarm, Flight, Gate
from athena.router.periods import Pace, Periods
from athena.router.upstream_reply import UpstreamReply
from athena.router.watch import Sight, look_at, move_elsewhere
from tests.router.test_gate import gate as gate_with
from tests.support.clock import Clock

COMMENT = b": keepalive 1/2\n\n"


def test_a_process_that_was_held_up_blames_no_engine_for_it() -> None:
    pace = Pace(Periods(tick=0.1, late=0.25))
    for now in (1.0, 1.1, 1.2, 1.3):
        pace.tick(now)
    assert not pace.held_up_since(1.0, 1.35)
    assert pace.held_up_since(1.3, 8.9), "a machine that slept, or a process that was stopped"
    pace.tick(9.0)
    assert pace.held_up_since(1.3, 9.05)
    pace.tick(9.1)
    assert not pace.held_up_since(9.05, 9.15)


class Nowhere:
    """Where the request of a flight without an engine goes."""

    def resend(self, reply: UpstreamReply) -> None:
        """Do nothing."""

    def over(self, reply: UpstreamReply) -> None:
        """Do nothing."""


class Waiting:
    """A request at an engine, as `look_at` sees it; the test says what comes for it."""

    movable = avoidable = True  # whether its route has another backend
    bound = False

    def __init__(self, begun: float, patience: float) -> None:
        self.begun = begun
        self.patience = patience
        self.waits_for_first_token = True
        self.upstream = UpstreamReply(asyncio.get_running_loop(), Nowhere(), b"")
        self.upstream.set_deadline(600)

    def comment(self) -> None:
        """Let bytes come that are no token."""
        self.upstream.begun = True
        self.upstream.add_data(COMMENT)

    async def token(self) -> None:
        """Let a token come, and be read."""
        self.upstream.begun = True
        if self.waits_for_first_token:
            self.waits_for_first_token = False
            self.upstream.set_idle_limit(600)
        self.upstream.add_data(b"data: {}\n\n")
        await self.upstream.read()
        self.upstream.note_progress()


class Looked:
    """A backend that is looked at ten times a second, on a clock that the test turns."""

    def __init__(self, board: Board) -> None:
        self.clock = Clock(100.0)
        self.periods = Periods()
        self.gate = gate_with(board, self.clock, limit=100)

    def request(self, patience: float = 4.0) -> Waiting:
        """Send a request."""
        flight = Waiting(self.clock.now, patience)
        self.gate.flights.add(flight)
        return flight

    def look(self) -> Sight:
        """Look, and take note of progress as the watch does; a tenth of a second passes."""
        for flight in self.gate.flights:
            flight.upstream.check(self.clock.now)
        sight = look_at(self.gate, self.clock.now, self.periods)
        if sight.progress:
            self.gate.cells[PROGRESS_AT] = self.clock.now
        self.clock.now += 0.1
        return sight

    def looks(self, seconds: float, meanwhile: Callable[[int], object] = lambda _: None) -> list[Sight]:
        """Look for so long; `meanwhile` happens before each look and is told its number."""
        sights = []
        for number in range(round(seconds * 10)):
            meanwhile(number)
            sights.append(self.look())
        return sights


@pytest.fixture
def looked() -> Iterator[Looked]:
    """A backend that is looked at."""
    board = Board()
    yield Looked(board)
    board.close()


async def test_one_comment_for_each_new_request_does_not_excuse_an_engine_that_generates_nothing(
    looked: Looked,
) -> None:
    sights = looked.looks(6, lambda _: looked.request().comment())
    assert not any(sight.progress for sight in sights)
    assert not any(sight.stuck for sight in sights[:40])
    assert all(sight.stuck for sight in sights[41:])


async def test_two_comments_at_once_for_each_new_request_are_no_reading(looked: Looked) -> None:
    last: list[Waiting] = []

    def greet(_: int) -> None:
        for flight in last:
            flight.comment()
        last[:] = [looked.request()]
        last[0].comment()

    sights = looked.looks(6, greet)
    assert not any(sight.progress for sight in sights)
    assert sights[-1].stuck


async def test_a_comment_buys_patience_for_its_own_request_alone(looked: Looked) -> None:
    first, second = looked.request(), looked.request()
    looked.looks(3)
    first.comment()
    sights = looked.looks(3)
    assert not sights[9].stuck
    assert sights[-1].stuck, "the other one waits for six seconds"
    looked.gate.flights.discard(second)
    assert not looked.look().stuck
    assert looked.looks(2)[-1].stuck, "its comment was five seconds ago"


@pytest.mark.parametrize("pause", [2, 10, 30], ids="every {} tenths of a second".format)
async def test_a_long_prompt_that_is_read_excuses_the_requests_behind_it(looked: Looked, pause: int) -> None:
    reader = looked.request(patience=60.0)

    def read(number: int) -> None:
        if number % pause == 0:
            reader.comment()
        if number % 10 == 5:
            looked.request()

    sights = looked.looks(40, read)
    assert not any(sight.stuck for sight in sights)
    assert sum(sight.progress for sight in sights) >= 400 // pause - 10 // pause - 1


async def test_a_reader_that_stops_excuses_nobody_for_long(looked: Looked) -> None:
    reader = looked.request(patience=60.0)
    looked.request()
    looked.looks(10, lambda _: reader.comment())
    sights = looked.looks(5)
    assert not any(sight.stuck for sight in sights[:38])
    assert sights[-1].stuck


async def test_a_stream_that_is_written_excuses_the_requests_beside_it_while_it_goes_on(looked: Looked) -> None:
    writer = looked.request()
    looked.request()
    for _ in range(20):
        await writer.token()
        assert all(sight.progress and not sight.stuck for sight in looked.looks(0.5))
    sights = looked.looks(8)
    assert not sights[-1].progress
    assert sights[-1].stuck


async def test_a_whole_reply_that_came_excuses_those_that_wait_for_theirs(looked: Looked) -> None:
    def reply(number: int) -> None:
        if number % 30 == 29:
            assert looked.gate.try_enter()
            looked.gate.succeeded(looked.clock.now, looked.clock.now - 1)

    looked.request()
    assert not any(sight.stuck for sight in looked.looks(12, reply))
    assert looked.looks(5)[-1].stuck


async def test_a_request_without_a_byte_is_suspicious_soon_and_stuck_later(looked: Looked) -> None:
    looked.request()
    sights = looked.looks(5)
    assert [sight.suspicious for sight in (sights[2], sights[4])] == [False, True]
    assert [(sight.busy, sight.stuck) for sight in (sights[6], sights[-1])] == [(True, False), (False, True)]


async def test_a_whole_reply_that_has_nowhere_else_to_go_may_take_as_long_as_it_likes(looked: Looked) -> None:
    long = looked.request()
    long.bound = True
    sights = looked.looks(30)
    assert all(sight.bound and not sight.stuck for sight in sights)
    long.bound = False
    assert looked.look().stuck, "another backend could serve it by now"


async def test_the_alarm_is_raised_when_an_engine_that_owes_an_answer_is_asked_again(looked: Looked) -> None:
    raised: list[float] = []

    def note(_: Gate, flight: Flight) -> None:
        raised.append(flight.begun)

    alarm = Alarm()
    alarm.after, alarm.call = 0.5, note
    gate = gate_with(Board(), looked.clock, alarm=alarm)

    def ask(at: float) -> None:
        gate.asked(at, Waiting(at, 4.0))

    ask(100.0)
    assert raised == [100.0], "it has never given an answer"
    gate.answered()
    ask(101.0)
    ask(101.4)
    assert raised == [100.0]
    ask(101.5)
    assert raised == [100.0, 101.5]
    gate.answered()
    ask(102.0)
    assert raised == [100.0, 101.5]


def leave_out(looked: Looked, reason: Reason) -> None:
    """Take the backend out of the route, after the requests that it has now were made."""
    looked.clock.now += 0.1
    looked.gate.open(looked.clock.now, reason)


def move(looked: Looked) -> None:
    """Look, and move what has to be moved."""
    looked.look()
    move_elsewhere(looked.gate, looked.clock.now, looked.periods)


async def test_a_request_without_a_byte_is_moved_at_once_when_its_engine_is_out_of_reach(looked: Looked) -> None:
    request = looked.request()
    leave_out(looked, Reason.UNREACHABLE)
    move(looked)
    assert request.upstream.over


async def test_a_request_that_was_greeted_is_moved_once_nothing_more_comes_from_an_engine_out_of_reach(
    looked: Looked,
) -> None:
    greeted, reading = looked.request(), looked.request()
    greeted.upstream.begun = reading.upstream.begun = True
    leave_out(looked, Reason.UNREACHABLE)
    for _ in range(7):
        reading.comment()
        move(looked)
        assert not greeted.upstream.over
    for _ in range(5):
        reading.comment()
        move(looked)
    assert greeted.upstream.over
    assert not reading.upstream.over, "its prompt is being read"


async def test_a_request_that_could_go_nowhere_else_stays(looked: Looked) -> None:
    request = looked.request()
    request.movable = False
    leave_out(looked, Reason.UNREACHABLE)
    looked.clock.now += 60
    move(looked)
    assert not request.upstream.over


@pytest.mark.parametrize("reason", [Reason.UNREACHABLE, Reason.HUNG])
async def test_a_stream_that_has_stopped_is_cut_where_its_engine_is_out_and_one_that_flows_is_not(
    looked: Looked, reason: Reason
) -> None:
    stopped, flowing = looked.request(), looked.request()
    await stopped.token()
    await flowing.token()
    looked.look()
    leave_out(looked, reason)
    for _ in range(95):
        await flowing.token()
        move(looked)
        assert not stopped.upstream.over
    for _ in range(20):
        await flowing.token()
        move(looked)
    assert stopped.upstream.over
    assert not flowing.upstream.over


async def test_a_stream_that_begins_when_its_engine_comes_back_is_not_cut(looked: Looked) -> None:
    late = looked.request()
    late.movable = False
    leave_out(looked, Reason.UNREACHABLE)
    looked.clock.now += 60
    await late.token()
    move_elsewhere(looked.gate, looked.clock.now, looked.periods)  # before anybody looked
    assert not late.upstream.over
    move(looked)
    assert not late.upstream.over


async def test_a_stream_at_a_backend_whose_requests_fail_now_and_then_is_left_to_its_own_limits(
    looked: Looked,
) -> None:
    stream = looked.request()
    await stream.token()
    looked.look()
    leave_out(looked, Reason.FAILURES)
    looked.clock.now += 60
    move(looked)
    assert not stream.upstream.over


async def test_a_trial_is_no_request_that_was_left_behind(looked: Looked) -> None:
    leave_out(looked, Reason.UNREACHABLE)
    trial = looked.request()
    looked.clock.now += 60
    move(looked)
    assert not trial.upstream.over
