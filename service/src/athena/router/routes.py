"""The engines of a model, worked out once for each configuration, so that a request only has to choose among them."""

from collections.abc import Sequence
from random import Random
from typing import TypeAlias

from athena.router.engines.base import Engine
from athena.router.gate import Gate
from athena.router.policy import shuffled
from athena.router.types import Target


class Door:
    """One engine of a route, with its gate and its limits. `group` counts priorities; `fallback` is auto's Ollama.

    `whole_seconds` bound a reply that is no stream, `first_token_seconds` the wait for a stream's first token.
    """

    __slots__ = (
        "engine",
        "fallback",
        "first_token_seconds",
        "gate",
        "group",
        "stall_seconds",
        "target",
        "whole_seconds",
    )

    def __init__(self, target: Target, engine: Engine, gate: Gate, *, group: int, fallback: bool) -> None:
        backend = target.backend
        timeout = float(backend.timeout_seconds)
        self.target = target
        self.engine = engine
        self.gate = gate
        self.group = group
        self.fallback = fallback
        self.whole_seconds = timeout
        self.first_token_seconds = _seconds(backend.first_token_seconds, timeout)
        self.stall_seconds = _seconds(backend.stall_seconds, timeout)


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


def _seconds(limit: int | None, default: float) -> float:
    return default if limit is None else float(limit)
