"""The engines of a model, worked out once for each configuration, so that a request only has to choose among them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from random import Random
from typing import TypeAlias

from athena.router.engines.base import Engine
from athena.router.errors import QueueFullError
from athena.router.gate import Gate
from athena.router.judging.arms import CANARY, MAIN, arm, shares
from athena.router.judging.needs import from_configuration, masks
from athena.router.policy import groups, shuffled
from athena.router.ticket import Ticket
from athena.router.types import Backend, BackendType, Target


class Door:
    """One engine of a route, with its gate and its limits. `group` counts priorities; `fallback` is auto's Ollama.

    `rivals` says that there are other backends of its priority, and arm, with a share; `equals` that all of those have
    the same share and none is compared with another; `arm` is empty where its priority has only one. `judged` says that
    it is chosen by what was seen. `said` is what its backend's row says that its model can do, `can` and `cannot` are
    the same as bits. `whole_seconds` bound a reply that is no stream, `first_token_seconds` the wait for a stream's
    first token.
    """

    __slots__ = (
        "arm",
        "can",
        "cannot",
        "engine",
        "equals",
        "fallback",
        "first_token_seconds",
        "gate",
        "group",
        "judged",
        "rivals",
        "said",
        "stall_seconds",
        "target",
        "whole_seconds",
    )

    def __init__(
        self,
        target: Target,
        engine: Engine,
        gate: Gate,
        *,
        group: int,
        fallback: bool,
        rivals: bool,
        equals: bool,
        arm: str,
    ) -> None:
        backend = target.backend
        timeout = float(backend.timeout_seconds)
        self.target = target
        self.engine = engine
        self.gate = gate
        self.group = group
        self.fallback = fallback
        self.rivals = rivals
        self.equals = equals
        self.judged = False
        self.arm = arm
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


class Split:
    """The doors of a priority whose backends are compared with each other: a caller always comes to the same arm.

    The other arms serve where that one cannot, those with the greatest share first.
    """

    __slots__ = ("_arms", "_model", "_others", "_shares")

    def __init__(self, model: str, arms: Mapping[str, Group], *, canary: float) -> None:
        """`canary` is the share of the arm of that name, if there is one."""
        self._model = model
        self._arms = arms
        self._shares = shares({name: sum(weight for weight, _ in group) for name, group in arms.items()}, canary)
        self._others = [name for name, _ in sorted(self._shares, key=lambda one: -one[1])]

    def order(self, random: Random, caller: str) -> Iterator[Sequence[Door]]:
        """Yield the doors of each backend: those of the caller's arm first, each arm's by weight."""
        chosen = arm(caller, self._model, self._shares, chance=random.random())
        for name in (chosen, *(other for other in self._others if other != chosen)):
            yield from shuffled(self._arms[name], random)


class Route:
    """The doors of a model: by priority, each group with weights or arms. `only` is the one door without another;
    `judged` says that some of its doors are chosen by what was seen.
    """

    __slots__ = ("_distinct", "_groups", "doors", "judged", "only")

    def __init__(self, groups: Sequence[Group | Split], doors: Sequence[Door]) -> None:
        """`doors` are all that are in the groups, in order of priority."""
        self.only = doors[0] if len(doors) == 1 else None
        self.doors = list(doors)
        self.judged = any(door.judged for door in doors)
        self._groups = groups
        self._distinct = len({door.gate for door in doors}) == len(doors)

    def order(self, random: Random, caller: str = "") -> list[Door]:
        """Return the doors to try in order, none twice: see `policy.targets`, and for arms `Split`."""
        ordered: list[Door] = []
        for group in self._groups:
            if isinstance(group, Split):
                for doors in group.order(random, caller):
                    ordered += doors
            elif len(group) == 1:
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
    ollama_url: str | None,
    engines: Mapping[BackendType, Engine],
    gate: Callable[[Target], Gate],
    judged: Callable[[Door], bool] | None = None,
) -> Route:
    """Return the route of a model with these backends; `gate` gives each engine's own, `judged` says which doors are
    chosen by what was seen (None: none is).
    """
    numbers = count()
    found: list[Group | Split] = []
    all_doors: list[Door] = []

    def doors_of(members: Sequence[tuple[int, list[Target]]], arm: str) -> Group:
        number = next(numbers)  # requests wait at once at doors of one number: never at those of two arms
        shares = {weight for weight, _ in members if weight > 0}
        rivals = sum(weight > 0 for weight, _ in members) > 1
        equals = rivals and len(shares) == 1 and not arm
        group = [
            (
                weight,
                [
                    Door(
                        target,
                        engines[target.engine],
                        gate(target),
                        group=number,
                        fallback=position > 0,
                        rivals=rivals and weight > 0,
                        equals=equals and weight > 0,
                        arm=arm,
                    )
                    for position, target in enumerate(expanded)
                ],
            )
            for weight, expanded in members
        ]
        for _, doors in group:
            for door in doors:
                door.judged = judged is not None and judged(door)
            all_doors.extend(doors)
        return group

    for members in groups(backends, model=model, ollama_url=ollama_url):
        arms: dict[str, list[tuple[int, list[Target]]]] = {}
        for weight, expanded in members:
            arms.setdefault(expanded[0].backend.arm or MAIN, []).append((weight, expanded))
        if len(arms) == 1:
            found.append(doors_of(members, ""))
            continue
        canary = next((expanded[0].backend.share for _, expanded in arms.get(CANARY, ())), None)
        split = {name: doors_of(arms[name], name) for name in sorted(arms)}
        found.append(Split(model, split, canary=canary or 0.0))
    return Route(found, all_doors)


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
