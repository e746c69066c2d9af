"""Health that cannot be fooled: requests that wait in vain raise suspicion, and each backend proves that it generates.

`Watch` looks at the requests of its own process; every worker has one. `Prober` asks the engines when no request has
shown that they live; one worker has it. Both only ever change breakers, and move requests that nobody has seen a token
of.
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec
import structlog

from athena.router.board import (
    BUSY_AT,
    CHECKED_AT,
    GENERATED_AT,
    PROGRESS_AT,
    REASON,
    SILENT_AT,
    STATE,
    STUCK_AT,
)
from athena.router.breaker import Reason, State
from athena.router.gate import Flight, Gate
from athena.router.gates import Gates
from athena.router.probing import Asker, Loaded, Proof, find, keep_alive
from athena.router.types import BackendType

AT_ONCE = 32  # generations that the prober asks for at the same time, of all engines together
log = structlog.get_logger()


class Periods(msgspec.Struct, frozen=True, kw_only=True):
    """All times of watching and probing, in seconds."""

    tick: float = 0.1
    suspect_after: float = 0.5  # a request without a byte
    suspect_again: float = 2.0  # once an engine that was suspected has answered
    silent_after: float = 4.0  # a request without a byte that says something even where nothing is known to be loaded
    reads_after: float = 1.0  # bytes before a first token that still come so long after the reply's first ones
    check_every: float = 2.0  # without a sign of life
    check_within: float = 0.75
    generate_every: float = 3.0  # without a proof
    generate_within: float = 3.0
    idle_after: float = 300.0  # without a request
    idle_generate_every: float = 30.0
    trial_every: float = 1.0  # at a backend that is out of the route
    load: float = 30.0  # that an Ollama may take to load a model
    fresh: float = 1.0  # how long what a worker has seen on its tick holds
    late: float = 0.25  # a tick that comes so much too late says that this process was held up, not the engines


class Sight(msgspec.Struct):
    """What one look at the requests at a backend shows."""

    progress: bool = False  # it is at work: it writes tokens, or goes on reading a prompt
    busy: bool = False  # a silence that is to be expected
    silent: bool = False  # none of the first bytes for long
    stuck: bool = False  # a silence beyond what is to be expected
    suspicious: bool = False  # no first byte for a while


def look_at(gate: Gate, now: float, periods: Periods) -> Sight:
    """Return what the requests at a backend show.

    A token shows that the engine works, and so excuses the requests that wait beside it. A head or a comment that comes
    before does not: an engine that hangs may well greet each new request. It buys patience for its own request alone,
    unless bytes of that same request keep coming, as they do while a long prompt is read.
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
        if now - max(silent_since, alive_at) >= flight.patience:
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
        self._suspects: set[tuple[BackendType, str]] = set()

    async def __aenter__(self) -> "Watch":
        self._tasks.start(_every(self._periods.tick, self._look))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.stop()

    def _look(self) -> None:
        now = self._gates.clock()
        self._pace.tick(now)
        for gate in self._gates:
            if gate.flights:
                self._look_at(gate, now)
            if gate.suspected:
                gate.suspected = False
                self._suspect(gate, now)

    def _look_at(self, gate: Gate, now: float) -> None:
        cells = gate.cells
        if cells[STATE] == State.OPEN:
            move_elsewhere(gate)
        sight = look_at(gate, now, self._periods)
        if sight.progress:
            cells[PROGRESS_AT] = now
        for seen, cell in ((sight.busy, BUSY_AT), (sight.silent, SILENT_AT), (sight.stuck, STUCK_AT)):
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

    def _suspect(self, gate: Gate, now: float) -> None:
        gate.cells[CHECKED_AT] = now
        engine = (gate.engine, gate.endpoint_url)
        if engine not in self._suspects:
            self._suspects.add(engine)
            self._tasks.start(self._confirm(*engine))

    async def _confirm(self, engine: BackendType, endpoint_url: str) -> None:
        try:
            begun = self._gates.clock()
            if not await self._asker.answers(engine, endpoint_url) and not self._pace.held_up_since(
                begun, self._gates.clock()
            ):
                leave(self._gates, engine, endpoint_url)
        finally:
            self._suspects.discard((engine, endpoint_url))


class Prober:
    """Asks each enabled backend of the configuration for a proof of life. An async context manager.

    `follow` sees to it that each backend of the present configuration has its gate; it is called at every look.
    """

    def __init__(
        self,
        gates: Gates,
        asker: Asker,
        periods: Periods,
        *,
        follow: Callable[[], None],
        random: Random,
    ) -> None:
        self._gates = gates
        self._asker = asker
        self._periods = periods
        self._follow = follow
        self._random = random
        self._started = gates.clock()
        self._tasks = Tasks()
        self._pace = Pace(periods)
        self._generating = 0
        self._engines: dict[tuple[BackendType, str], _Asked] = {}
        self._models: dict[Gate, _Probed] = {}

    async def __aenter__(self) -> "Prober":
        self._tasks.start(_every(self._periods.tick, self._look))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.stop()
        self._gates.board.note_prober(0.0)

    def _look(self) -> None:
        now = self._gates.clock()
        self._gates.board.note_prober(now)
        self._pace.tick(now)
        self._follow()
        for gate in self._gates:
            self._look_at(gate, now)
        if len(self._models) > len(self._gates):
            self._models = {gate: probed for gate, probed in self._models.items() if gate in set(self._gates)}

    def _look_at(self, gate: Gate, now: float) -> None:
        probed = self._models.get(gate)
        if probed is None:
            # Not all at once.
            probed = self._models[gate] = _Probed(now - self._random.random() * self._periods.generate_every / 2)
        if gate.cells[STATE] != State.CLOSED:
            if now >= probed.trial_at:
                lasting = now - gate.breaker.changed_at > self._periods.idle_after
                pause = self._periods.trial_every * (5 if lasting else 1)
                probed.trial_at = now + self._jitter(pause)
                gate.postpone(probed.trial_at)
                self._tasks.start(self._try(gate, probed))
            return
        self._check(gate, now)
        if not probed.asking and self._generating < AT_ONCE and self._generation_is_due(gate, probed, now):
            probed.asking = True
            self._tasks.start(self._prove(gate, probed))

    # The cheap question

    def _check(self, gate: Gate, now: float) -> None:
        key = (gate.engine, gate.endpoint_url)
        asked = self._engines.get(key)
        if asked is None:
            asked = self._engines[key] = _Asked(now)
        asked.answered_at = max(asked.answered_at, gate.alive_at())
        if not asked.asking and now - asked.answered_at >= self._periods.check_every * asked.spread:
            asked.asking = True
            asked.spread = self._jitter(1.0)
            self._tasks.start(self._ask(*key, asked))

    async def _ask(self, engine: BackendType, endpoint_url: str, asked: "_Asked") -> None:
        try:
            begun = self._gates.clock()
            for _ in range(2):  # one answer may well be late
                if await self._asker.answers(engine, endpoint_url):
                    asked.answered_at = self._gates.clock()
                    return
            if not self._pace.held_up_since(begun, self._gates.clock()):
                leave(self._gates, engine, endpoint_url)
        finally:
            asked.asking = False

    # Generation

    def _generation_is_due(self, gate: Gate, probed: "_Probed", now: float) -> bool:
        periods = self._periods
        live = gate.alive_at()
        idle = now - max(live, self._started) > periods.idle_after
        every = periods.idle_generate_every if idle else periods.generate_every
        if now - max(live, probed.asked_at) < every * probed.spread:
            return False
        if gate.engine is BackendType.OLLAMA:
            return not self._is_busy(gate, now) or self._is_silent(gate, now)
        return gate.slot.total_in_use() < gate.limit or not self._is_busy(gate, now)

    def _is_busy(self, gate: Gate, now: float) -> bool:
        """Whether it may be at work for requests of ours that show no bytes yet: a probe would wait behind them."""
        fresh = self._periods.fresh
        return now - gate.cells[BUSY_AT] < fresh <= now - gate.cells[STUCK_AT]

    def _is_silent(self, gate: Gate, now: float) -> bool:
        return now - gate.cells[SILENT_AT] < self._periods.fresh

    async def _prove(self, gate: Gate, probed: "_Probed") -> None:
        """Ask for a token, and once more where none comes; then the backend leaves the route."""
        self._generating += 1
        entered = gate.try_enter()  # the engine's parallelism holds for probes as well, unless it is all used in vain
        try:
            for _ in range(2):
                begun = self._gates.clock()
                outcome = await self._generate(gate, probed, begun)
                now = self._gates.clock()
                probed.asked_at = now
                probed.spread = self._jitter(1.0)
                if outcome is None:
                    if gate.slot.total_in_use():  # what speaks against a probe may change soon
                        probed.asked_at -= max(self._periods.generate_every - self._periods.trial_every, 0.0)
                    return
                if (
                    outcome is not Proof.FAILS
                    or gate.alive_at() >= begun
                    or self._pace.held_up_since(begun, self._gates.clock())
                ):
                    return
                if now - gate.cells[STUCK_AT] < self._periods.fresh or probed.unloaded:
                    break  # a request of ours has waited in vain as well
            gate.open(self._gates.clock(), Reason.HUNG)
            move_elsewhere(gate)
        finally:
            probed.asking = False
            self._generating -= 1
            if entered:
                gate.leave()

    async def _generate(self, gate: Gate, probed: "_Probed", now: float) -> Proof | None:
        """Ask for a token; None where that would do harm, or show nothing."""
        loaded = None
        if gate.engine is BackendType.OLLAMA:
            listed = await self._asker.loaded(gate.endpoint_url)
            probed.unloaded = False
            if listed is None:
                return None  # that is the cheap question's matter
            loaded = find(gate.model, listed)
            if loaded is None:
                probed.listed_since = 0.0
                # It must not be loaded for a probe. A request of ours would have loaded it, unless that has to wait
                # for another model to go.
                if listed or not self._is_silent(gate, now):
                    return None
                probed.unloaded = True
            elif self._is_busy(gate, now) or not self._may_ask(gate, probed, loaded, now):
                return None
        return await self._asker.generates(gate.engine, gate.endpoint_url, gate.model, loaded)

    def _may_ask(self, gate: Gate, probed: "_Probed", loaded: Loaded, now: float) -> bool:
        """Whether a loaded model may be asked: not while it may still be loading, nor when it is about to go."""
        if not probed.listed_since:
            probed.listed_since = now
        proven = max(gate.cells[GENERATED_AT], gate.cells[PROGRESS_AT], probed.generated_at) >= probed.listed_since
        if not proven and now - probed.listed_since < self._periods.load and self._is_silent(gate, now):
            return False
        return loaded.expires_at is None or keep_alive(loaded, utc_now()) is not None

    # Coming back

    async def _try(self, gate: Gate, probed: "_Probed") -> None:
        """Let a backend that is out come back if it does what it failed to do."""
        begun = self._gates.clock()
        if not await self._asker.answers(gate.engine, gate.endpoint_url):
            return
        loaded = None
        if gate.engine is BackendType.OLLAMA:
            listed = await self._asker.loaded(gate.endpoint_url)
            if listed is None:
                return
            loaded = find(gate.model, listed)
            if loaded is None and gate.cells[REASON] == Reason.UNREACHABLE:
                gate.generates(self._gates.clock(), begun)  # it lives; what it holds is for requests to say
                return
        outcome = await self._asker.generates(gate.engine, gate.endpoint_url, gate.model, loaded)
        if outcome is not Proof.FAILS:
            probed.asked_at = probed.generated_at = self._gates.clock()
            gate.generates(probed.asked_at, begun)

    def _jitter(self, seconds: float) -> float:
        return seconds * self._random.uniform(0.9, 1.0)


class Pace:
    """Whether this process itself was held up, so that what came too late proves nothing."""

    def __init__(self, periods: Periods) -> None:
        self._longest = periods.tick + periods.late
        self._ticked_at = 0.0
        self._held_up_at = 0.0

    def tick(self, now: float) -> None:
        """Take note of a tick."""
        if self._ticked_at and now - self._ticked_at > self._longest:
            self._held_up_at = now
        self._ticked_at = now

    def held_up_since(self, begun: float, now: float) -> bool:
        """Whether it was since then, or is just coming to itself."""
        return self._held_up_at >= begun or now - self._ticked_at > self._longest


class _Asked:
    """What the prober knows of one engine."""

    def __init__(self, now: float) -> None:
        self.asking = False
        self.answered_at = now
        self.spread = 1.0


class _Probed:
    """What the prober knows of one backend."""

    def __init__(self, started: float) -> None:
        self.asking = False
        self.asked_at = started
        self.generated_at = 0.0
        self.listed_since = 0.0
        self.unloaded = False
        self.trial_at = 0.0
        self.spread = 1.0


def leave(gates: Gates, engine: BackendType, endpoint_url: str) -> None:
    """Take every backend of an engine that does not answer out of the route, and move what waits there in vain."""
    now = gates.clock()
    for gate in gates:
        if gate.engine is engine and gate.endpoint_url == endpoint_url:
            gate.open(now, Reason.UNREACHABLE)
            move_elsewhere(gate)


def move_elsewhere(gate: Gate) -> None:
    """Let the requests at a backend that has left the route be tried elsewhere, if there is another one for them.

    Those that show signs of life stay, and so do all that were made after it had left: trials.
    """
    breaker = gate.breaker
    if breaker.state is not State.OPEN or breaker.reason is Reason.FAILURES:
        return
    for flight in tuple(gate.flights):
        silent = not flight.upstream.begun or breaker.reason is Reason.HUNG
        if flight.waits_for_first_token and silent and flight.begun < breaker.changed_at and flight.movable:
            flight.upstream.expire("the engine does not answer; it has left the route")


def utc_now() -> datetime:
    """Return the time of day, which Ollama speaks of."""
    return datetime.now(UTC)


async def _every(seconds: float, look: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            look()
        except Exception:  # a fault of ours must not end the watching for good
            log.exception("watch_failed")


class Tasks:
    """Tasks that end with their owner. One that fails is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something in the background."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Cancel all and wait for their end."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("probe_failed", exc_info=error)
