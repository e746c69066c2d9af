"""What a process has seen of the engines that its judge chooses among: speeds, loads, prefixes. For one event loop."""

from typing import Protocol
from weakref import WeakKeyDictionary

from athena.router.board import LOAD_SECONDS, RESIDENCE, Slot
from athena.router.gate import Gate
from athena.router.judging.choosing import Candidate
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
from athena.router.judging.prefixes import Prefixes, digests
from athena.router.judging.warmth import REAL_LOAD_SECONDS, Residence, kept_prompts, load_seconds
from athena.router.routes import Door
from athena.router.types import BackendType

TOKENS = 128.0  # of a reply, until some were seen
_SMALLEST_PART = 0.05  # of a reply that reading takes at least
_LOADS = 4.0  # that count: with the fifth the first has all but gone

Beginnings = tuple[tuple[int, bytes], ...]


class Asked(Protocol):
    """What is looked at of a prompt; `beginnings` are worked out when they are first wanted."""

    model: str
    body: bytes
    beginnings: Beginnings | None


def beginnings_of(asked: Asked) -> Beginnings:
    """Return the digests of a prompt's beginnings."""
    if asked.beginnings is None:
        asked.beginnings = digests(asked.body)
    return asked.beginnings


class Seen:
    """Kept in memory, by each process for itself; but whether models are loaded all workers know from the board."""

    def __init__(self) -> None:
        # By a gate's slot, which is its own and goes with it: nothing can refer to a compiled gate weakly.
        self._speeds: WeakKeyDictionary[Slot, Speeds] = WeakKeyDictionary()
        self._avoided: WeakKeyDictionary[Slot, float] = WeakKeyDictionary()  # until when
        self._replies: dict[tuple[str, int], Mean] = {}
        self._prefixes = Prefixes()

    def __len__(self) -> int:
        return len(self._speeds)

    def tokens(self, model: str, size: int) -> float:
        """Return how many tokens a reply to a prompt of so many bytes usually has."""
        reply = self._replies.get((model, bucket(size)))
        return reply.value if reply is not None else TOKENS

    def candidate(self, door: Door, size: int, beginnings: Beginnings) -> Candidate:
        """Return what is known of an engine for a prompt of so many bytes, now."""
        gate = door.gate
        now = gate.now()
        speeds = self._speeds.get(gate.slot, UNKNOWN)
        in_use, waiting = gate.slot.total_in_use(), gate.slot.total_waiting()
        others = min(in_use, gate.limit - 1)
        warm = self._warm_bytes(gate, beginnings)
        return Candidate(
            name=name(door),
            usable=gate.usable(now) and self._avoided.get(gate.slot, now) <= now,
            busy=(in_use + waiting) / gate.limit,
            wait=gate.expected_wait(gate.queued + 1) if in_use >= gate.limit else 0.0,
            load=load_seconds(Residence(int(gate.cells[RESIDENCE])), gate.cells[LOAD_SECONDS]),
            first=first_token(speeds, size=size - warm, others=others),
            token=seconds_a_token(speeds, others=others),
            warm_bytes=warm,
        )

    def sent(self, door: Door, asked: Asked) -> int:
        """Take note that an engine is asked, and return how many bytes of the prompt it has not read before."""
        beginnings = beginnings_of(asked)
        unread = len(asked.body) - self._warm_bytes(door.gate, beginnings)
        self._prefixes.remember(_place(door.gate), beginnings)
        return unread

    def learn(
        self,
        door: Door,
        asked: Asked,
        *,
        unread: int,
        others: int,
        first: float | None,
        tokens: int,
        writing: float,
        load: float,
        now: float,
    ) -> None:
        """Take note of a whole reply: see `Judge.learn`."""
        gate = door.gate
        self._avoided.pop(gate.slot, None)
        if load < REAL_LOAD_SECONDS:
            load = 0.0
        speeds = self._speeds.get(gate.slot, UNKNOWN)
        if first is None:
            # All of it before the first token, but for what writing is known to take: the whole is right then.
            pace = seconds_a_token(speeds, others=others)
            first = max(writing - (pace.value * tokens if pace is not None else 0.0), writing * _SMALLEST_PART)
        else:
            speeds = saw_reply(speeds, others=others, tokens=tokens, seconds=writing, now=now)
        first = max(first - load, first * _SMALLEST_PART)
        self._speeds[gate.slot] = saw_first_token(speeds, size=unread, others=others, seconds=first, now=now)
        where = (asked.model, bucket(len(asked.body)))
        self._replies[where] = after(self._replies.get(where, Mean()), tokens, now)
        if gate.engine is BackendType.OLLAMA:
            self._saw_loaded(gate, load)

    def avoid(self, door: Door, until: float) -> None:
        """Take note that a sound engine would not give a reply: see `Judge.avoid`. Until then others come first."""
        self._avoided[door.gate.slot] = until

    def _saw_loaded(self, gate: Gate, load: float) -> None:
        gate.cells[RESIDENCE] = Residence.LOADED
        if load:
            before = gate.cells[LOAD_SECONDS]
            gate.cells[LOAD_SECONDS] = before + (load - before) / _LOADS if before else load

    def _warm_bytes(self, gate: Gate, beginnings: Beginnings) -> int:
        if not beginnings or gate.cells[RESIDENCE] == Residence.AWAY:
            return 0  # what it had read went with the model
        return self._prefixes.warm_bytes(_place(gate), beginnings, kept=kept_prompts(gate.engine, gate.limit))


def name(door: Door) -> str:
    """Return what an engine is called in what is told of it."""
    return f"{door.target.engine} at {door.target.endpoint_url}"


def _place(gate: Gate) -> str:
    return f"{gate.endpoint_url} {gate.model}"
