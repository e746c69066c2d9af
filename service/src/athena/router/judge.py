"""Remembers what was seen of the engines of `auto` backends, and puts them in order by it; only where it is wanted.

What is decided, and by what, is in `athena.router.judging`; here it is kept, for one event loop.
"""

from collections.abc import Sequence
from itertools import pairwise
from random import Random
from weakref import WeakKeyDictionary

import msgspec

from athena.router.breaker import State
from athena.router.call import Call
from athena.router.gate import Gate
from athena.router.judging.choosing import Candidate, Choice, choose, describe
from athena.router.judging.estimates import (
    BUCKETS,
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
from athena.router.needing import described
from athena.router.routes import Door
from athena.router.types import BackendType

MLX_FIRST, MEASURED = "mlx_first", "measured"
TOKENS = 128.0  # of a reply, until some were seen
_SMALLEST_PART = 0.05  # of a reply that reading takes at least
AVOIDED_SECONDS = 60.0  # after a reply that did not come, an engine is first only where the other one is out of use


class Sized(msgspec.Struct, frozen=True, kw_only=True):
    """How prompts of up to so many bytes go just now (None: of any length, or longer ones), and why, in words."""

    up_to_bytes: int | None
    order: tuple[str, ...]
    because: str
    figures: tuple[str, ...]


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """What GET /athena/why answers: the policy in force for a model, and what it comes to."""

    model: str
    policy: str
    choices: tuple[Sized, ...]


class Judge:
    """Orders the two engines of an `auto` backend by what was measured. Each worker process learns for itself."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._speeds: WeakKeyDictionary[Gate, Speeds] = WeakKeyDictionary()
        self._replies: dict[tuple[str, int], Mean] = {}
        self._last: dict[tuple[str, int], str] = {}
        self._avoided: WeakKeyDictionary[Gate, float] = WeakKeyDictionary()  # until when

    def order(self, doors: list[Door], call: Call) -> list[Door]:
        """Return a route's doors with the two of each `auto` backend in the order of their choice."""
        for place in range(1, len(doors)):
            mlx, ollama = doors[place - 1], doors[place]
            if _belong_together(mlx, ollama):
                pair = (mlx, ollama)
                where = (call.model, bucket(len(call.body)))
                choice = self._choose(pair, where, len(call.body), chance=self._random.random())
                self._last[where] = _name(pair[choice.order[0]])
                doors[place - 1 : place + 1] = _arranged(pair, choice)
        return doors

    def learn(
        self, door: Door, call: Call, *, others: int, first: float | None, tokens: int, writing: float, now: float
    ) -> None:
        """Take note of a whole reply, with how many other requests the engine had when it was asked.

        `first` are the seconds until the first token, None where nobody saw it; `tokens` were written in `writing`
        seconds, or read and written in so many where nobody saw the first one.
        """
        if door.target.backend.backend_type is not BackendType.AUTO:
            return
        gate, size = door.gate, len(call.body)
        self._avoided.pop(gate, None)
        speeds = self._speeds.get(gate, UNKNOWN)
        if first is None:
            # All of it before the first token, but for what writing is known to take: the whole is right then.
            pace = seconds_a_token(speeds, others=others)
            first = max(writing - (pace.value * tokens if pace is not None else 0.0), writing * _SMALLEST_PART)
        else:
            speeds = saw_reply(speeds, others=others, tokens=tokens, seconds=writing, now=now)
        self._speeds[gate] = saw_first_token(speeds, size=size, others=others, seconds=first, now=now)
        where = (call.model, bucket(size))
        self._replies[where] = after(self._replies.get(where, Mean()), tokens, now)

    def avoid(self, door: Door, now: float) -> None:
        """Take note that an engine did not give a reply, though it may be in the route: it lacks the model, perhaps."""
        self._avoided[door.gate] = now + AVOIDED_SECONDS

    def why(self, model: str, doors: Sequence[Door]) -> tuple[Sized, ...]:
        """Return how prompts of each length would go just now; nothing is changed by asking."""
        pair = next((two for two in pairwise(doors) if _belong_together(*two)), None)
        if pair is None:
            return ()
        now = pair[0].gate.now()
        found = []
        for number, size in enumerate((*BUCKETS, 2 * BUCKETS[-1])):
            choice = self._choose(pair, (model, number), size, chance=1.0)
            found.append(
                Sized(
                    up_to_bytes=size if number < len(BUCKETS) else None,
                    order=tuple(_name(pair[place]) for place in choice.order),
                    because=choice.because,
                    figures=tuple(describe(one, now) for one in choice.judged),
                )
            )
        return tuple(found)

    def _choose(self, pair: Sequence[Door], where: tuple[str, int], size: int, *, chance: float) -> Choice:
        reply = self._replies.get(where)
        return choose(
            [self._candidate(door, size) for door in pair],
            tokens=reply.value if reply is not None else TOKENS,
            last=self._last.get(where),
            now=pair[0].gate.now(),
            chance=chance,
        )

    def _candidate(self, door: Door, size: int) -> Candidate:
        gate = door.gate
        now = gate.now()
        speeds = self._speeds.get(gate, UNKNOWN)
        in_use, waiting = gate.slot.total_in_use(), gate.slot.total_waiting()
        others = min(in_use, gate.limit - 1)
        return Candidate(
            name=_name(door),
            usable=gate.usable(now) and self._avoided.get(gate, now) <= now,
            busy=(in_use + waiting) / gate.limit,
            wait=gate.expected_wait(gate.queued + 1) if in_use >= gate.limit else 0.0,
            first=first_token(speeds, size=size, others=others),
            token=seconds_a_token(speeds, others=others),
        )


def why(model: str, doors: Sequence[Door], judge: Judge | None) -> Why:
    """Return what is to be told of a model's route."""
    choices = judge.why(model, doors) if judge is not None else ()
    if choices:
        return Why(model=model, policy=MEASURED, choices=choices)
    said = "the route's own order: by priority, then by weight, MLX before the default Ollama of an auto backend"
    plain = Sized(
        up_to_bytes=None,
        order=tuple(_name(door) for door in doors),
        because=said,
        figures=tuple(_state(door) for door in doors),
    )
    return Why(model=model, policy=MLX_FIRST, choices=(plain,))


def _belong_together(one: Door, other: Door) -> bool:
    """Whether these are an `auto` backend's MLX and the default Ollama behind it."""
    return other.fallback and one.target.backend is other.target.backend


def _arranged(pair: Sequence[Door], choice: Choice) -> list[Door]:
    """Return the two in order; at the second one a request waits from the start only if it is as good as the first."""
    first, second = (pair[place] for place in choice.order)
    if first is pair[0] and choice.together == 1:
        return [first, second]
    return [_copy(first, fallback=False), _copy(second, fallback=choice.together == 1)]


def _copy(door: Door, *, fallback: bool) -> Door:
    return Door(door.target, door.engine, door.gate, group=door.group, fallback=fallback)


def _name(door: Door) -> str:
    return f"{door.target.engine} at {door.target.endpoint_url}"


def _state(door: Door) -> str:
    gate, breaker = door.gate, door.gate.breaker
    out = f"out of the route ({breaker.reason.name.lower()})" if breaker.state is not State.CLOSED else "in the route"
    busy = f"{gate.slot.total_in_use()} of {gate.limit} slots in use, {gate.slot.total_waiting()} waiting"
    usual = gate.usual_seconds()
    lately = "" if usual is None else f", a whole reply takes {usual:.1f} s lately"
    abilities = described(door)
    return f"{_name(door)}: {out}, {busy}{lately}{'; ' if abilities else ''}{abilities}"
