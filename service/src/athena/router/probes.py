"""Each backend proves that it generates: asked something cheap, and for one token, where no request has shown it.

One worker has the `Prober`. It only ever changes breakers, and moves requests that nobody has seen a token of.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

from athena.router.background import Tasks, every
from athena.router.board import BOUND_AT, BUSY_AT, GENERATED_AT, PROGRESS_AT, REASON, SILENT_AT, STATE, STUCK_AT
from athena.router.breaker import Reason, State
from athena.router.gate import Gate
from athena.router.gates import Gates
from athena.router.periods import Pace, Periods
from athena.router.probing import Asker, Loaded, Proof, find, keep_alive
from athena.router.types import BackendType
from athena.router.watch import leave, move_elsewhere

AT_ONCE = 32  # generations that the prober asks for at the same time, of all engines together


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
        self._tasks.start(every(self._periods.tick, self._look))
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
            if not probed.trying and now >= probed.trial_at:
                lasting = now - gate.breaker.changed_at > self._periods.idle_after
                pause = self._periods.trial_every * (5 if lasting else 1)
                probed.trial_at = now + self._jitter(pause)
                gate.postpone(probed.trial_at)
                probed.trying = True
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
        doubted_until = 0.0
        try:
            begun = self._gates.clock()
            for _ in range(2):  # one answer may well be late
                if await self._asker.answers(engine, endpoint_url):
                    asked.answered_at = self._gates.clock()
                    doubted_until = math.inf
                    return
                doubted_until = self._gates.clock() + self._periods.doubt
                self._gates.doubt(engine, endpoint_url, until=doubted_until)
            if not self._pace.held_up_since(begun, self._gates.clock()):
                leave(self._gates, engine, endpoint_url, self._periods)
        finally:
            asked.asking = False
            self._gates.end_doubt(engine, endpoint_url, doubted_until)

    # Generation

    def _generation_is_due(self, gate: Gate, probed: "_Probed", now: float) -> bool:
        periods = self._periods
        live = gate.alive_at()
        idle = now - max(live, self._started) > periods.idle_after
        pause = periods.idle_generate_every if idle else periods.generate_every
        if now - max(live, probed.asked_at) < pause * probed.spread:
            return False
        if gate.engine is BackendType.OLLAMA:
            return not self._is_busy(gate, now) or self._is_silent(gate, now)
        return gate.slot.total_in_use() < gate.limit or not self._is_busy(gate, now)

    def _is_busy(self, gate: Gate, now: float) -> bool:
        """Whether it may be at work for requests of ours that show no bytes yet: a probe would wait behind them.

        One of them beyond its patience speaks against that, unless a reply is under way that may take long.
        """
        fresh, cells = self._periods.fresh, gate.cells
        return now - cells[BOUND_AT] < fresh or now - cells[BUSY_AT] < fresh <= now - cells[STUCK_AT]

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
            if self._is_busy(gate, self._gates.clock()) and not probed.unloaded:
                return  # many an engine works on one request at a time
            gate.open(self._gates.clock(), Reason.HUNG)
            move_elsewhere(gate, self._gates.clock(), self._periods)
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
        try:
            await self._ask_again(gate, probed)
        finally:
            probed.trying = False

    async def _ask_again(self, gate: Gate, probed: "_Probed") -> None:
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
        self.trying = False
        self.spread = 1.0


def utc_now() -> datetime:
    """Return the time of day, which Ollama speaks of."""
    return datetime.now(UTC)
