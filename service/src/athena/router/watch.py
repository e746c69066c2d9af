"""What the requests that are under way at a backend show of its health; those that wait in vain raise suspicion.

Every worker has a `Watch` over the requests of its own process. It only ever changes breakers, moves requests of which
nobody has seen a token, and cuts streams of which an engine that is out says nothing more.
"""

import math

import msgspec

from athena.router.background import Tasks, every
from athena.router.board import BOUND_AT, BUSY_AT, CHECKED_AT, GENERATED_AT, PROGRESS_AT, SILENT_AT, STATE, STUCK_AT
from athena.router.breaker import Reason, State
from athena.router.gate import Flight, Gate
from athena.router.gates import Gates
from athena.router.periods import Pace, Periods
from athena.router.probing import Asker
from athena.router.types import BackendType

_REPLIES_OWED = 4  # in the time that so many usually take to come, one of them should have come


class Sight(msgspec.Struct):
    """What one look at the requests at a backend shows."""

    progress: bool = False  # it is at work: it writes tokens, or goes on reading a prompt
    busy: bool = False  # a silence that is to be expected
    bound: bool = False  # a whole reply is under way, of whatever length, that has nowhere else to go
    silent: bool = False  # none of the first bytes for long
    stuck: bool = False  # a silence beyond what is to be expected
    suspicious: bool = False  # no first byte for a while


def look_at(gate: Gate, now: float, periods: Periods) -> Sight:
    """Return what the requests at a backend show.

    A token shows that the engine works, and so excuses the requests that wait beside it. A head or a comment that comes
    before does not: an engine that hangs may well greet each new request. It buys patience for its own request alone,
    unless bytes of that same request keep coming, as they do while a long prompt is read. A whole reply that has
    nowhere else to go may take as long as its own limit says, and so may all that wait behind it.
    """
    sight = Sight()
    waiting: list[Flight] = []
    for flight in gate.flights:
        waits, upstream = flight.waits_for_first_token, flight.upstream
        came = upstream.progressed(now)
        if came and (not waits or now - upstream.first_heard_at >= periods.reads_after):
            sight.progress = True
        elif waits:
            waiting.append(flight)
    alive_at = now if sight.progress else gate.alive_at()
    for flight in waiting:
        silent_since = max(flight.begun, flight.upstream.heard_at)
        if not flight.upstream.begun and now - flight.begun >= periods.suspect_after:
            sight.suspicious = True
        if now - silent_since >= periods.silent_after:
            sight.silent = True
        if flight.bound:
            sight.bound = True
        elif now - max(silent_since, alive_at) >= flight.patience:
            sight.stuck = True
        else:
            sight.busy = True
    return sight


class Watch:
    """Looks at the requests of this process ten times a second. An async context manager."""

    def __init__(self, gates: Gates, asker: Asker, periods: Periods) -> None:
        self._gates = gates
        self._asker = asker
        self._periods = periods
        self._tasks = Tasks()
        self._pace = Pace(periods)
        self._suspects: dict[tuple[BackendType, str], float] = {}  # since when each is being asked
        self._rests: dict[tuple[BackendType, str], float] = {}  # seconds until an engine that owes is asked again

    async def __aenter__(self) -> "Watch":
        alarm = self._gates.alarm
        alarm.after, alarm.call = self._periods.owed_after, self._owed
        self._tasks.start(every(self._periods.tick, self._look))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gates.alarm.after = math.inf
        await self._tasks.stop()

    def _look(self) -> None:
        now = self._gates.clock()
        self._pace.tick(now)
        self._gates.note_doubts()
        for gate in self._gates:
            if gate.flights:
                self._look_at(gate, now)
            if gate.suspected:
                gate.suspected = False
                self._suspect(gate, now)

    def _look_at(self, gate: Gate, now: float) -> None:
        cells = gate.cells
        sight = look_at(gate, now, self._periods)
        # What has come while this process was held up is still to be read.
        if cells[STATE] == State.OPEN and not self._pace.held_up_since(now - self._periods.move_after, now):
            move_elsewhere(gate, now, self._periods)
        if sight.progress:
            cells[PROGRESS_AT] = now
            gate.answered()
        for seen, cell in (
            (sight.busy, BUSY_AT), (sight.bound, BOUND_AT), (sight.silent, SILENT_AT), (sight.stuck, STUCK_AT)
        ):  # fmt: skip
            if seen:
                cells[cell] = now
        alive_at = max(cells[PROGRESS_AT], cells[GENERATED_AT])
        if (
            sight.suspicious
            and now - alive_at >= self._periods.suspect_after
            and now - cells[CHECKED_AT] >= self._periods.suspect_again
            and cells[STATE] == State.CLOSED
        ):
            self._suspect(gate, now)

    def _owed(self, gate: Gate, flight: Flight) -> None:
        """Suspect an engine of which nothing has come for longer than replies are usually apart from each other.

        Where many requests are made, too many of them would meet one that hangs until the next look.
        """
        periods, cells, now = self._periods, gate.cells, flight.begun
        usual = gate.usual_seconds()
        apart = usual / gate.in_use if usual is not None else 0.0
        longest = min(max(_REPLIES_OWED * apart, periods.owed_after), periods.suspect_after)
        # What other workers were answered counts as well.
        if now - max(gate.owes_since, gate.alive_at()) < longest or not flight.avoidable:
            return
        rest = max(longest, self._rests.get((gate.engine, gate.endpoint_url), 0.0))
        if cells[STATE] == State.CLOSED and now - cells[CHECKED_AT] >= rest:
            self._suspect(gate, now)
        elif not self._gates.any_in_doubt:
            self._gates.note_doubts()  # another worker may just be asking

    def _suspect(self, gate: Gate, now: float) -> None:
        engine = (gate.engine, gate.endpoint_url)
        asked_at = self._suspects.get(engine)
        if asked_at is None:
            asked_at = self._suspects[engine] = now
            until = now + self._periods.doubt
            self._gates.doubt(*engine, until=until)
            self._tasks.start(self._confirm(*engine, until))
        # The answer that is awaited tells of this model as well; it is no reason to ask later again.
        gate.cells[CHECKED_AT] = max(gate.cells[CHECKED_AT], asked_at)

    async def _confirm(self, engine: BackendType, endpoint_url: str, doubted_until: float) -> None:
        gates, periods = self._gates, self._periods
        lives = False
        try:
            begun = gates.clock()
            lives = await self._asker.answers(engine, endpoint_url)
            if lives:
                took = gates.clock() - begun
                self._rests[engine, endpoint_url] = min(periods.asked_apart * took, periods.suspect_again)
                for gate in gates.of_engine(engine, endpoint_url):
                    gate.answered()
                return
            lives = self._shows_life(engine, endpoint_url, begun + periods.tick)
            if not lives and not self._pace.held_up_since(begun, gates.clock()):
                leave(gates, engine, endpoint_url, periods)
        finally:
            del self._suspects[engine, endpoint_url]
            # Where this process was held up, or ends, nothing is known: another worker that doubts goes on asking.
            gates.end_doubt(engine, endpoint_url, math.inf if lives else doubted_until)

    def _shows_life(self, engine: BackendType, endpoint_url: str, since: float) -> bool:
        """Whether a request to one of an engine's models has been answered, or goes on being so."""
        return any(gate.alive_at() > since for gate in self._gates.of_engine(engine, endpoint_url))


def leave(gates: Gates, engine: BackendType, endpoint_url: str, periods: Periods) -> None:
    """Take every backend of an engine that does not answer out of the route, and move what waits there in vain."""
    now = gates.clock()
    for gate in gates.of_engine(engine, endpoint_url):
        gate.open(now, Reason.UNREACHABLE)
        move_elsewhere(gate, now, periods)


def move_elsewhere(gate: Gate, now: float, periods: Periods) -> None:
    """Let the requests at a backend that has left the route be tried elsewhere, if there is another one for them.

    Those that show signs of life stay, and so do all that were made after it had left: trials. A stream of which the
    caller has seen a part can go nowhere: it is cut once nothing has come for `cut_after`.
    """
    breaker = gate.breaker
    if breaker.state is not State.OPEN or breaker.reason is Reason.FAILURES:
        return
    for flight in tuple(gate.flights):
        if flight.begun >= breaker.changed_at:
            continue
        came = not flight.waits_for_first_token and flight.upstream.progressed(now)
        silence = now - max(flight.begun, flight.upstream.heard_at)
        if not flight.waits_for_first_token:
            if not came and silence >= periods.cut_after:
                flight.upstream.expire("the engine does not answer; its stream has stopped")
        elif flight.movable and (
            # A head is soon written: mlx_lm.server sends it before it has even begun.
            not flight.upstream.begun or breaker.reason is Reason.HUNG or silence >= periods.move_after
        ):
            flight.upstream.expire("the engine does not answer; it has left the route")
