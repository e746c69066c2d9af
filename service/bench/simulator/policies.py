"""The policies that are compared. Each says in which order the doors of a route are tried, and at which to wait."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random

import msgspec

from athena.router.board import RESIDENCE
from athena.router.call import Call
from athena.router.gate import Gate
from athena.router.gates import Gates
from athena.router.judge import MEASURED, WARM, Judge
from athena.router.judging.choosing import LOAD_COUNTS, Candidate, choose
from athena.router.judging.estimates import (
    UNKNOWN,
    Mean,
    Speeds,
    after,
    bucket,
    first_token,
    saw_first_token,
    saw_reply,
    seconds_a_token,
)
from athena.router.judging.warmth import Residence
from athena.router.policy import concurrency
from athena.router.residence import LOOK_SECONDS
from athena.router.routes import Door, Route
from athena.router.seen import TOKENS
from athena.router.types import BackendType, Operation, Request
from athena.settings import RouterSettings
from bench.simulator.engine import DONE, Phase, SimulatedEngine, rates
from bench.simulator.places import Place
from bench.simulator.traces import Ask


class Known(msgspec.Struct, frozen=True):
    """What a policy may look at; only the oracle looks into the engines."""

    engines: Mapping[str, SimulatedEngine]
    gates: Gates
    clock: Callable[[], float]
    random: Random


class Policy:
    """One way to choose. What is observed is told to it, as the router would."""

    def __init__(self, known: Known) -> None:
        self.known = known

    def order(self, route: Route, ask: Ask) -> list[Door]:
        """Return the doors to try, in order: that of the configuration, unless a policy has a better one."""
        return list(route.doors)

    def split(self, doors: Sequence[Door]) -> tuple[Sequence[Door], Sequence[Door]]:
        """Return at which of the usable doors to wait (the first with a slot serves), and where if that is refused."""
        return doors[:1], doors[1:]

    def sent(self, door: Door, ask: Ask) -> None:
        """Take note that a prompt goes to an engine."""

    def first_token(self, door: Door, ask: Ask, seconds: float) -> None:
        """Take note of a first token, so long after the prompt was sent to the engine."""

    def ended(self, door: Door, ask: Ask, seconds: float, load: float) -> None:
        """Take note of the end of a reply, so long after its first token; its model was loaded for `load` seconds."""


class RoundRobin(Policy):
    """Each engine in turn, whatever it has to do."""

    def __init__(self, known: Known) -> None:
        super().__init__(known)
        self._turn = 0

    def order(self, route: Route, ask: Ask) -> list[Door]:
        """Return the next one first."""
        self._turn += 1
        start = self._turn % len(route.doors)
        return [*route.doors[start:], *route.doors[:start]]


class LeastBusy(Policy):
    """The engine with the fewest requests for each of its slots, those that wait included."""

    def order(self, route: Route, ask: Ask) -> list[Door]:
        """Return the least busy first, equals at random."""
        keyed = [(_busy(door), self.known.random.random(), door) for door in route.doors]
        return [door for _, _, door in sorted(keyed, key=lambda key: key[:2])]


class MlxFirst(Policy):
    """Priorities and weights, and MLX before the default Ollama of `auto`: nothing that was seen counts."""

    def order(self, route: Route, ask: Ask) -> list[Door]:
        """Return the route's own order."""
        return route.order(self.known.random)

    def split(self, doors: Sequence[Door]) -> tuple[Sequence[Door], Sequence[Door]]:
        """Return all: the router itself knows which of them belong together."""
        return doors, ()


class Oracle(Policy):
    """Knows the length of every reply, the state of every engine, and who waits: where would this one end first?

    Greedy: it does not know what will be asked, so that it is no bound. A load counts with it as much as with `choose`.
    """

    def order(self, route: Route, ask: Ask) -> list[Door]:
        """Return that engine first."""
        return sorted(route.doors, key=lambda door: self._end(door, ask))

    def _end(self, door: Door, ask: Ask) -> float:
        engine = self.known.engines[door.target.endpoint_url]
        at_work = [(job.phase, job.read, job.write) for job in engine.jobs]
        loads = sum(engine.load_seconds(model) for model in {job.ask.model for job in engine.jobs} - {ask.model})
        queued = [place.ask for waiter in door.gate.queue.waiters() if isinstance(place := waiter.item, Place)]
        line = [(Phase.READING, *engine.work(one)) for one in [*queued, ask]]
        if engine.pace == 0:
            return float("inf")
        slots = concurrency(door.target.backend, door.target.engine)
        return loads + LOAD_COUNTS * engine.load_seconds(ask.model) + foretold(at_work, line, slots, engine)


class _Work(msgspec.Struct):
    reads: bool
    read: float
    write: float


def foretold(
    at_work: Sequence[tuple[Phase, float, float]],
    line: Sequence[tuple[Phase, float, float]],
    slots: int,
    engine: SimulatedEngine,
) -> float:
    """Return in how many seconds the last of a line ends, if nobody else comes."""
    active = [_Work(reads=phase is not Phase.WRITING, read=read, write=write) for phase, read, write in at_work]
    waiting = [_Work(reads=True, read=read, write=write) for _, read, write in line]
    last, now = waiting[-1], 0.0
    while True:
        while waiting and len(active) < slots:
            active.append(waiting.pop(0))
        reading, writing = rates(
            sum(one.reads for one in active),
            sum(not one.reads for one in active),
            engine.machine.gain,
            engine.pace,
        )
        step = min(one.read / reading if one.reads else one.write / writing for one in active)
        now += step
        for one in active:
            if one.reads:
                one.read -= step * reading
                one.reads = one.read > DONE
            else:
                one.write -= step * writing
        if not last.reads and last.write <= DONE:
            return now
        active = [one for one in active if one.reads or one.write > DONE]


class Measured(Policy):
    """What `athena.router.judging` chooses by what was seen of each engine."""

    def __init__(self, known: Known) -> None:
        super().__init__(known)
        self._speeds: dict[Gate, Speeds] = {}
        self._replies: dict[tuple[str, int], Mean] = {}
        self._last: dict[tuple[str, int], str] = {}
        self._sent: dict[tuple[Gate, int], tuple[int, int]] = {}  # a flight's size and how many others there were
        self._together = 1

    def order(self, route: Route, ask: Ask) -> list[Door]:
        """Return the order of the choice."""
        place = (ask.model, bucket(len(ask.body)))
        reply = self._replies.get(place)
        choice = choose(
            [self._candidate(door, ask) for door in route.doors],
            tokens=reply.value if reply is not None else TOKENS,
            last=self._last.get(place),
            now=self.known.clock(),
            chance=self.known.random.random(),
        )
        self._together = choice.together
        if not choice.explores:
            self._last[place] = route.doors[choice.order[0]].target.endpoint_url
        return [route.doors[number] for number in choice.order]

    def split(self, doors: Sequence[Door]) -> tuple[Sequence[Door], Sequence[Door]]:
        """Return those that are as good as the best."""
        return doors[: self._together], doors[self._together :]

    def sent(self, door: Door, ask: Ask) -> None:
        """Remember what the engine had to do besides."""
        self._sent[door.gate, ask.number] = (len(ask.body), door.gate.in_use - 1)

    def first_token(self, door: Door, ask: Ask, seconds: float) -> None:
        """Take note of it."""
        size, others = self._sent[door.gate, ask.number]
        speeds = self._speeds.get(door.gate, UNKNOWN)
        self._speeds[door.gate] = saw_first_token(
            speeds, size=size, others=others, seconds=seconds, now=self.known.clock()
        )

    def ended(self, door: Door, ask: Ask, seconds: float, load: float) -> None:
        """Take note of it."""
        now = self.known.clock()
        _, others = self._sent.pop((door.gate, ask.number))
        speeds = self._speeds[door.gate]
        self._speeds[door.gate] = saw_reply(speeds, others=others, tokens=ask.reply_tokens, seconds=seconds, now=now)
        place = (ask.model, bucket(len(ask.body)))
        self._replies[place] = after(self._replies.get(place, Mean()), ask.reply_tokens, now)

    def _candidate(self, door: Door, ask: Ask) -> Candidate:
        gate, size = door.gate, len(ask.body)
        speeds = self._speeds.get(gate, UNKNOWN)
        others = min(gate.in_use, gate.limit - 1)
        wait = 0.0 if gate.in_use < gate.limit else gate.expected_wait(gate.queued + 1)
        return Candidate(
            name=gate.endpoint_url,
            usable=gate.usable(self.known.clock()),
            busy=(gate.in_use + gate.queued) / gate.limit,
            wait=wait,
            first=first_token(speeds, size=size, others=others),
            token=seconds_a_token(speeds, others=others),
        )


class Judged(Policy):
    """The router's own judge, which knows of loaded models and of prefixes that a host has read as well."""

    def __init__(self, known: Known, *, auto: bool, hosts: str) -> None:
        super().__init__(known)
        self._judge = Judge(known.random, auto=auto, hosts=hosts)
        self._calls: dict[int, Call] = {}
        self._sent: dict[
            tuple[Gate, int], tuple[int, int]
        ] = {}  # a flight's unread bytes and how many others there were
        self._first: dict[tuple[Gate, int], float] = {}
        self._looked_at = -math.inf

    def order(self, route: Route, ask: Ask) -> list[Door]:
        """Return the order of the judge, who may know a little late what is loaded."""
        now = self.known.clock()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._look()
        call = self._calls[ask.number] = Call.of(Request(operation=Operation.CHAT, model=ask.model, stream=True))
        call.body = ask.body
        return self._judge.order(route.order(self.known.random), call)

    def split(self, doors: Sequence[Door]) -> tuple[Sequence[Door], Sequence[Door]]:
        """Return all: the router itself knows which of them belong together."""
        return doors, ()

    def sent(self, door: Door, ask: Ask) -> None:
        """Remember what the engine has to read, and to do besides."""
        unread = self._judge.sent(door, self._calls[ask.number])
        self._sent[door.gate, ask.number] = (unread, door.gate.in_use - 1)

    def first_token(self, door: Door, ask: Ask, seconds: float) -> None:
        """Take note of it."""
        self._first[door.gate, ask.number] = seconds

    def ended(self, door: Door, ask: Ask, seconds: float, load: float) -> None:
        """Let the judge learn."""
        unread, others = self._sent.pop((door.gate, ask.number))
        self._judge.learn(
            door,
            self._calls.pop(ask.number),
            unread=unread,
            others=others,
            first=self._first.pop((door.gate, ask.number)),
            tokens=ask.reply_tokens,
            writing=seconds,
            load=load,
            now=self.known.clock(),
        )

    def _look(self) -> None:
        for gate in self.known.gates:
            if gate.engine is BackendType.OLLAMA:
                loaded = self.known.engines[gate.endpoint_url].has_loaded(gate.model)
                gate.cells[RESIDENCE] = Residence.LOADED if loaded else Residence.AWAY


def _busy(door: Door) -> float:
    return (door.gate.in_use + door.gate.queued) / door.gate.limit


def _default(known: Known) -> Policy:
    """Return what the router does where no setting says otherwise, whatever the environment says here."""
    auto, hosts = (RouterSettings.model_fields[name].default for name in ("router_auto_policy", "router_host_policy"))
    return Judged(known, auto=auto == MEASURED, hosts=hosts)


POLICIES: dict[str, Callable[[Known], Policy]] = {
    "round robin": RoundRobin,
    "least busy": LeastBusy,
    "mlx first, by weight": MlxFirst,
    "default": _default,
    "measured": Measured,
    "warm": partial(Judged, auto=True, hosts=WARM),
    "greedy oracle": Oracle,
}
