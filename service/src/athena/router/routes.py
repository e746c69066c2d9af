"""The engines of a model, worked out once for each configuration, so that a request only has to choose among them."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TypeAlias

from athena.router.engines.base import Engine
from athena.router.errors import QueueFullError
from athena.router.gate import Gate
from athena.router.judging.needs import from_configuration, masks
from athena.router.policy import groups, shuffled
from athena.router.ticket import Ticket
from athena.router.types import Backend, BackendType, Target


class Door:
    """One engine of a route, with its gate and its limits. `group` counts priorities; `fallback` is auto's Ollama.

    `rivals` says that its priority has other backends with a share. `said` is what its backend's row says that its
    model can do, `can` and `cannot` are the same as bits. `whole_seconds` bound a reply that is no stream,
    `first_token_seconds` the wait for a stream's first token.
    """

    __slots__ = (
        "can",
        "cannot",
        "engine",
        "fallback",
        "first_token_seconds",
        "gate",
        "group",
        "rivals",
        "said",
        "stall_seconds",
        "target",
        "whole_seconds",
    )

    def __init__(self, target: Target, engine: Engine, gate: Gate, *, group: int, fallback: bool, rivals: bool) -> None:
        backend = target.backend
        timeout = float(backend.timeout_seconds)
        self.target = target
        self.engine = engine
        self.gate = gate
        self.group = group
        self.fallback = fallback
        self.rivals = rivals
        # What an `auto` backend says of itself is meant for its MLX.
        own = backend.backend_type is not BackendType.AUTO or target.engine is BackendType.MLX
        self.said = from_configuration(backend.capabilities if own else None)
        self.can, self.cannot = masks(self.said.can)
        self.whole_seconds = timeout
        self.first_token_seconds = _seconds(backend.first_token_seconds, timeout)
        self.stall_seconds = _seconds(backend.stall_seconds, timeout)

    def aside(self, *, fallback: bool) -> "Door":
        """Return this door for one request that waits here only when it comes to it, or together with others."""
        other = Door.__new__(Door)
        for name in Door.__slots__:
            setattr(other, name, getattr(self, name))
        other.fallback = fallback
        return other


Group: TypeAlias = Sequence[tuple[int, Sequence[Door]]]


class Route:
    """The doors of a model: by priority, each group with weights. `only` is the one door where there is no other."""

    __slots__ = ("_distinct", "_groups", "doors", "only")

    def __init__(self, groups: Sequence[Group]) -> None:
        doors = [door for group in groups for _, doors in group for door in doors]
        self.only = doors[0] if len(doors) == 1 else None
        self.doors = doors
        self._groups = groups
        self._distinct = len({door.gate for door in doors}) == len(doors)

    def order(self, random: Random) -> list[Door]:
        """Return the doors to try in order, none twice: see `policy.targets`."""
        ordered: list[Door] = []
        for group in self._groups:
            if len(group) == 1:
                ordered += group[0][1]
            else:
                for doors in shuffled(group, random):
                    ordered += doors
        if self._distinct:
            return ordered
        found: dict[Gate, Door] = {}
        for door in ordered:
            found.setdefault(door.gate, door)
        return list(found.values())


def route_of(
    backends: Sequence[Backend],
    *,
    model: str,
    ollama_url: str,
    engines: Mapping[BackendType, Engine],
    gate: Callable[[Target], Gate],
) -> Route:
    """Return the route of a model with these backends; `gate` gives each engine's own."""
    return Route(
        [
            [
                (
                    weight,
                    [
                        Door(
                            target,
                            engines[target.engine],
                            gate(target),
                            group=number,
                            fallback=position > 0,
                            rivals=weight > 0 and sum(other > 0 for other, _ in group) > 1,
                        )
                        for position, target in enumerate(expanded)
                    ],
                )
                for weight, expanded in group
            ]
            for number, group in enumerate(groups(backends, model=model, ollama_url=ollama_url))
        ]
    )


def first_group(doors: Sequence[Door]) -> list[Door]:
    """Return the doors at which to wait at once: those of the first one's priority, but not auto's Ollama with them."""
    first = doors[0]
    return [door for door in doors if door is first or (door.group == first.group and not door.fallback)]


def enter(doors: Sequence[Door]) -> Door | None:
    """Enter the first door of the first group that has a free slot; what is behind it gets what it cannot queue."""
    for door in first_group(doors):
        if door.gate.try_enter():
            return door
    return None


def line_up(ticket: Ticket, doors: Sequence[Door], *, within: float) -> None:
    """Let a ticket wait for the first group of doors that has room, at all its gates at once; raises QueueFullError."""
    refusals: list[QueueFullError] = []
    for make_room in (False, True):  # first come the free places, those of others at last
        rest = doors
        while rest:
            group = first_group(rest)
            for door in group:
                refusal = door.gate.wait(ticket, within, make_room=make_room)
                if refusal is not None:
                    refusals.append(refusal)
            if ticket.places:
                return
            rest = [door for door in rest if door not in group]
    try:
        raise min(refusals, key=lambda refusal: refusal.retry_after or 0.0)
    finally:
        refusals.clear()  # the error's traceback knows this list


def _seconds(limit: int | None, default: float) -> float:
    return default if limit is None else float(limit)
