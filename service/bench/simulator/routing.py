"""The router of the simulation: the real routes, gates, queues and breakers, told of simulated time and engines.

What it does in `_next` and `_send` is what `athena.router.dispatch.Dispatcher` does with an event loop and sockets.
"""

from collections.abc import Callable
from functools import partial
from random import Random

from athena.router.board import Board
from athena.router.breaker import Reason, State
from athena.router.engines import ENGINES
from athena.router.errors import QueueFullError
from athena.router.gate import Gate
from athena.router.gates import CLOCK_SECONDS, Gates
from athena.router.routes import Door, Route, enter, line_up, route_of
from bench.simulator.engine import Job, SimulatedEngine
from bench.simulator.fleets import Fleet
from bench.simulator.machines import BACK_AFTER_SECONDS, CUT_AFTER_SECONDS, MOVED_AFTER_SECONDS
from bench.simulator.places import Place
from bench.simulator.policies import Known, Policy
from bench.simulator.timeline import Timeline
from bench.simulator.traces import Ask

QUEUE_SECONDS = 30.0  # the router's own default (`RouterSettings.queue_seconds`)


class Outcome:
    """What became of a prompt: seconds from its arrival; None where that never came."""

    __slots__ = ("ask", "asked_at", "first", "refused", "whole")

    def __init__(self, ask: Ask, asked_at: float) -> None:
        self.ask = ask
        self.asked_at = asked_at
        self.first: float | None = None
        self.whole: float | None = None
        self.refused = False


class _Prompt:
    __slots__ = ("outcome", "remaining", "since")

    def __init__(self, outcome: Outcome, remaining: list[Door], since: float) -> None:
        self.outcome = outcome
        self.remaining = remaining
        self.since = since


class Simulation:
    """One run of one policy over one trace."""

    def __init__(self, fleet: Fleet, make: Callable[[Known], Policy], *, seed: int) -> None:
        self.timeline = Timeline()
        self.outcomes: list[Outcome] = []
        self.random = Random(seed)  # noqa: S311 - repeatable, nothing secret
        self.engines: dict[str, SimulatedEngine] = {
            machine.url: SimulatedEngine(machine, self.timeline) for machine in fleet.machines
        }
        self._fleet = fleet
        self.gates = Gates(
            Board(),
            queue_seconds=QUEUE_SECONDS,
            random=Random(seed),  # noqa: S311 - as above
            clock=self.timeline.clock,
        )
        self._routes = {model: self._route(model) for model in fleet.mix.models}
        self._flights: dict[Gate, list[tuple[Job, Callable[[], None]]]] = {gate: [] for gate in self.gates}
        self._looking = False
        self._probed: set[Gate] = set()  # those that are out of the route
        self._policy = make(Known(self.engines, self.gates, self.timeline.clock, Random(seed)))  # noqa: S311 - as above

    def run(self, asks: list[Ask]) -> list[Outcome]:
        """Return what becomes of the prompts of a trace."""
        begin = self.timeline.now
        for ask in asks:
            self.timeline.at(begin + ask.at, lambda ask=ask: self._open(ask))  # type: ignore[misc] # its own default
        length = asks[-1].at
        for mishap in self._fleet.mishaps:
            engine = next(one for one in self.engines.values() if one.machine.name == mishap.machine)
            self._befall(engine, begin + mishap.begins * length, begin + mishap.ends * length, mishap.pace)
        self.timeline.run()
        return self.outcomes

    @property
    def loads(self) -> int:
        """How often a model was loaded."""
        return sum(engine.loads for engine in self.engines.values())

    def _route(self, model: str) -> Route:
        ollama = next(machine.url for machine in self._fleet.machines if machine.name == self._fleet.ollama)
        rows = [row for row in self._fleet.rows if row.model_name == model]
        return route_of(
            rows, model=model, ollama_url=ollama, engines=ENGINES, gate=partial(self.gates.gate, known=True)
        )

    # One prompt

    def _open(self, ask: Ask) -> None:
        outcome = Outcome(ask, self.timeline.now)
        self.outcomes.append(outcome)
        remaining = self._policy.order(self._routes[ask.model], ask)
        self._next(_Prompt(outcome, remaining, self.timeline.now))

    def _next(self, prompt: _Prompt) -> None:
        """Come to a slot of one of those that remain."""
        now = self.timeline.now
        usable = [door for door in prompt.remaining if door.gate.usable(now)]
        if not usable:
            anyway = next((door for door in prompt.remaining if door.gate.try_anyway()), None)
            if anyway is None:
                prompt.outcome.refused = True
            else:
                self._send(prompt, anyway)
            return
        together, others = self._policy.split(usable)
        entered = enter(together)
        if entered is not None:
            self._send(prompt, entered)
            return

        def served(gate: Gate) -> None:
            self._send(prompt, next(door for door in usable if door.gate is gate))

        def lost(error: QueueFullError | None) -> None:
            if error is None:
                self._next(prompt)
            else:
                prompt.outcome.refused = True

        place = Place(prompt.outcome.ask, prompt.since, served=served, lost=lost)
        within = prompt.since + QUEUE_SECONDS - now
        try:
            try:
                line_up(place, together, within=within)
            except QueueFullError:
                if not others:
                    raise
                line_up(place, others, within=within)
        except QueueFullError:
            prompt.outcome.refused = True
            return
        self._watch_queues()

    def _send(self, prompt: _Prompt, door: Door) -> None:
        prompt.remaining.remove(door)
        ask, outcome, gate, begun = prompt.outcome.ask, prompt.outcome, door.gate, self.timeline.now
        engine = self.engines[door.target.endpoint_url]
        self._policy.sent(door, ask)

        def first_token() -> None:
            outcome.first = self.timeline.now - outcome.asked_at
            self._policy.first_token(door, ask, self.timeline.now - begun)

        def ended() -> None:
            self._flights[gate].remove(flight)
            outcome.whole = self.timeline.now - outcome.asked_at
            since_first = self.timeline.now - (outcome.asked_at + (outcome.first or 0.0))
            self._policy.ended(door, ask, since_first, job.load)
            gate.succeeded(self.timeline.now, begun)

        job = Job(ask, first_token=first_token, ended=ended)

        def failed() -> None:
            engine.drop(job)
            self._flights[gate].remove(flight)
            gate.failed(self.timeline.now, begun)
            self._probe(gate, engine)
            if job.first:
                outcome.refused = True  # too late for another one
            elif prompt.remaining:
                self._next(prompt)
            else:
                outcome.refused = True

        def give_up() -> None:
            if not job.first and flight in self._flights[gate]:
                failed()

        flight = (job, failed)
        self._flights[gate].append(flight)
        self.timeline.at(begun + door.first_token_seconds, give_up)
        engine.start(job)

    def _watch_queues(self) -> None:
        if not self._looking:
            self._looking = True
            self.timeline.at(self.timeline.now + CLOCK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = False
        for gate in self.gates:
            if gate.queued:
                gate.look_at_queue(self.timeline.now, QUEUE_SECONDS)
        if any(gate.queued for gate in self.gates):
            self._watch_queues()

    # What befalls an engine

    def _befall(self, engine: SimulatedEngine, begins: float, ends: float, pace: float) -> None:
        self.timeline.at(begins, lambda: engine.set_pace(pace))
        self.timeline.at(ends, lambda: engine.set_pace(1.0))
        if pace:
            return
        gates = [gate for gate in self.gates if gate.endpoint_url == engine.machine.url]

        def found_hung() -> None:
            for gate in gates:
                gate.open(self.timeline.now, Reason.HUNG)
                self._probe(gate, engine)
                gate.look_at_queue(self.timeline.now, QUEUE_SECONDS)
                self._fail(gate, lambda job: not job.first)

        def cut() -> None:
            for gate in gates:
                self._fail(gate, lambda job: job.first)

        self.timeline.at(begins + MOVED_AFTER_SECONDS, found_hung)
        self.timeline.at(begins + CUT_AFTER_SECONDS, cut)

    def _probe(self, gate: Gate, engine: SimulatedEngine) -> None:
        """Let a probe find out when an engine that is out of the route generates again."""
        if gate in self._probed or gate.breaker.state is State.CLOSED:
            return
        self._probed.add(gate)

        def look() -> None:
            self._probed.discard(gate)
            if engine.pace > 0:
                gate.generates(self.timeline.now, self.timeline.now)
            else:
                self._probe(gate, engine)

        self.timeline.at(self.timeline.now + BACK_AFTER_SECONDS, look)

    def _fail(self, gate: Gate, which: Callable[[Job], bool]) -> None:
        for job, failed in tuple(self._flights[gate]):
            if which(job):
                failed()
