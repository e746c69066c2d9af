"""Puts the engines of a route in order by what was seen of them, where that is wanted.

What is decided, and by what, is in `athena.router.judging`; what was seen is kept in `athena.router.seen`.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from random import Random

import msgspec

from athena.router.breaker import State
from athena.router.judging.choosing import Choice, Judged, choose, describe
from athena.router.judging.estimates import BUCKETS, bucket
from athena.router.needing import described
from athena.router.routes import Door
from athena.router.seen import Asked, Beginnings, Seen, beginnings_of, name
from athena.router.types import BackendType

MLX_FIRST, MEASURED = "mlx_first", "measured"
WEIGHTED, WARM, WARM_AMONG_EQUALS = "weighted", "warm", "warm_among_equals"
ARMS, PRIORITY = "arms", "priority"
# An engine that would not give a reply, and did not say for how long, is first only where others are out of use, for:
LACKING_SECONDS = 60.0  # it lacks the model
BUSY_SECONDS = 2.0  # it has too much to do
_SAID = {
    WEIGHTED: "then by weight",
    ARMS: "then by the caller's arm",
    MLX_FIRST: "MLX before the default Ollama of an auto backend",
}


class Sized(msgspec.Struct, frozen=True, kw_only=True):
    """How prompts of up to so many bytes go just now (None: of any length, or longer ones), and why, in words."""

    up_to_bytes: int | None
    order: tuple[str, ...]
    because: str
    figures: tuple[str, ...]


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """What GET /athena/why answers: the policies in force for a model, and what they come to.

    Several are joined by "and": how one of several backends of a priority is chosen (weighted, warm, arms), and how one
    of the two engines of an `auto` backend (mlx_first, measured). Where neither is to be chosen it is priority.
    """

    model: str
    policy: str
    choices: tuple[Sized, ...]


class _Prompt(msgspec.Struct, frozen=True):
    """What a choice is made for. `tells` is told of each choice and of the place that it is remembered by."""

    model: str
    size: int
    beginnings: Beginnings
    draw: Callable[[], float]
    tells: Callable[[tuple[str, int, str], Choice], None]


class Judge:
    """Orders the two engines of an `auto` backend, the backends of one priority, or both, by what was seen.

    Each worker process learns for itself. Backends of weight 0 keep their place at the end.
    """

    def __init__(self, random: Random, *, auto: bool, hosts: str) -> None:
        """`auto` says whether those of an `auto` backend are judged; `hosts` which backends of a priority are: none
        (WEIGHTED), those whose shares are equal and are not compared (WARM_AMONG_EQUALS), or all (WARM).
        """
        self._random = random
        self.measures = auto
        self._hosts = hosts
        self._seen = Seen()
        self._last: dict[tuple[str, int, str], str] = {}

    @property
    def known(self) -> int:
        """How many engines something was seen of."""
        return len(self._seen)

    def order(self, doors: list[Door], asked: Asked) -> list[Door]:
        """Return a route's doors in the order of their choice."""
        if not any(self.judges(door) for door in doors):
            return doors

        def remember(where: tuple[str, int, str], choice: Choice) -> None:
            if not choice.explores:  # or the one that was tried would be kept to
                self._last[where] = choice.judged[choice.order[0]].candidate.name

        prompt = _Prompt(asked.model, len(asked.body), beginnings_of(asked), self._random.random, remember)
        return self._arranged(doors, prompt)

    def sent(self, door: Door, asked: Asked) -> int:
        """Take note that an engine is asked, and return how many bytes of the prompt it has not read before."""
        return self._seen.sent(door, asked) if self.judges(door) else len(asked.body)

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
        load: float = 0.0,
        now: float,
    ) -> None:
        """Take note of a whole reply to a prompt of which so many bytes were `unread`.

        `others` is how many other requests the engine had when it was asked. `first` are the seconds until the first
        token, those of a `load` of the model included, None where nobody saw it; `tokens` were written in `writing`
        seconds, or read and written in so many where nobody saw the first one.
        """
        if self.judges(door):
            self._seen.learn(
                door,
                asked,
                unread=unread,
                others=others,
                first=first,
                tokens=tokens,
                writing=writing,
                load=load,
                now=now,
            )

    def avoid(self, door: Door, now: float, *, lacks_model: bool) -> None:
        """Take note that a sound engine would not give a reply: it lacks the model, or has too much to do.

        One that says when it may be asked again is left alone by its gate.

        One that is not sound is left by its breaker, which would not open if nobody asked it any more.
        """
        if self.judges(door):
            self._seen.avoid(door, now + (LACKING_SECONDS if lacks_model else BUSY_SECONDS))

    def why(self, model: str, doors: Sequence[Door]) -> Why | None:
        """Return how prompts of each length would go just now, None where there is nothing to choose.

        Nothing is changed by asking. Of prefixes nothing is said: they are those of a prompt.
        """
        if not any(self.judges(door) for door in doors):
            return None
        found = []
        for number, size in enumerate((*BUCKETS, 2 * BUCKETS[-1])):
            told: list[Choice] = []
            prompt = _Prompt(model, size, (), lambda: 1.0, lambda _, choice, told=told: told.append(choice))  # type: ignore[misc] # its own default
            order = self._arranged(list(doors), prompt)
            now = doors[0].gate.now()
            judged = {one.candidate.name: one for choice in told for one in choice.judged}
            found.append(
                Sized(
                    up_to_bytes=size if number < len(BUCKETS) else None,
                    order=tuple(name(door) for door in order),
                    because="; ".join(choice.because for choice in reversed(told)),
                    figures=tuple(_figures(door, judged.get(name(door)), now) for door in doors),
                )
            )
        return Why(model=model, policy=" and ".join(policies(doors, self)), choices=tuple(found))

    def judges(self, door: Door) -> bool:
        """Whether an engine is chosen by what was seen."""
        return self.compares(door) or (self.measures and door.target.backend.backend_type is BackendType.AUTO)

    def compares(self, door: Door) -> bool:
        """Whether a backend is chosen by what was seen among those of its priority."""
        return door.equals if self._hosts == WARM_AMONG_EQUALS else self._hosts == WARM and door.rivals

    def _arranged(self, doors: Sequence[Door], prompt: _Prompt) -> list[Door]:
        """Return the doors with the two of each `auto` backend in order, and then the backends of each priority."""
        backends: list[list[Door]] = []
        for door in doors:
            if backends and _belong_together(backends[-1][0], door):
                backends[-1].append(door)
            else:
                backends.append([door])
        if self.measures:
            backends = [self._pair(two, prompt) if len(two) > 1 else two for two in backends]
        ordered: list[list[Door]] = []
        for (number, compared), group in groupby(backends, lambda one: (one[0].group, self.compares(one[0]))):
            equals = list(group)
            ordered += self._equals(equals, prompt, number) if compared and len(equals) > 1 else equals
        return [door for backend in ordered for door in backend]

    def _pair(self, pair: Sequence[Door], prompt: _Prompt) -> list[Door]:
        """Return the two in order; a request waits at the second one at once only if it is as good as the first."""
        choice = self._choose(pair, prompt, pair[0].target.backend.endpoint_url)
        first, second = (pair[place] for place in choice.order)
        if first is pair[0] and choice.together == 1:
            return [first, second]
        return [first.aside(fallback=False), second.aside(fallback=choice.together == 1)]

    def _equals(self, backends: Sequence[list[Door]], prompt: _Prompt, group: int) -> list[list[Door]]:
        """Return those of a priority in order; a request waits at once at all that are as good as the first."""
        choice = self._choose([backend[0] for backend in backends], prompt, str(group))
        ordered = [backends[place] for place in choice.order]
        others = [[door.aside(fallback=True) for door in backend] for backend in ordered[choice.together :]]
        return [*ordered[: choice.together], *others]

    def _choose(self, doors: Sequence[Door], prompt: _Prompt, among: str) -> Choice:
        where = (prompt.model, bucket(prompt.size), among)
        choice = choose(
            [self._seen.candidate(door, prompt.size, prompt.beginnings) for door in doors],
            tokens=self._seen.tokens(prompt.model, prompt.size),
            last=self._last.get(where),
            now=doors[0].gate.now(),
            chance=prompt.draw(),
        )
        prompt.tells(where, choice)
        return choice


def why(model: str, doors: Sequence[Door], judge: Judge | None) -> Why:
    """Return what is to be told of a model's route."""
    judged = judge.why(model, doors) if judge is not None else None
    if judged is not None:
        return judged
    named = policies(doors, judge)
    said = ", ".join(("the route's own order: by priority", *(_SAID[one] for one in named if one in _SAID)))
    plain = Sized(
        up_to_bytes=None,
        order=tuple(name(door) for door in doors),
        because=said,
        figures=tuple(_state(door) for door in doors),
    )
    return Why(model=model, policy=" and ".join(named), choices=(plain,))


def policies(doors: Sequence[Door], judge: Judge | None) -> tuple[str, ...]:
    """Return by what the engines of a route are chosen."""
    found: dict[str, None] = {}
    for door in doors:
        if judge is not None and judge.compares(door):
            found[WARM] = None
        elif door.arm or door.rivals:
            found[ARMS if door.arm else WEIGHTED] = None
        if door.target.backend.backend_type is BackendType.AUTO:
            found[MEASURED if judge is not None and judge.measures else MLX_FIRST] = None
    return tuple(found) or (PRIORITY,)


def _belong_together(one: Door, other: Door) -> bool:
    """Whether these are an `auto` backend's MLX and the default Ollama behind it."""
    return other.fallback and one.target.backend is other.target.backend


def _figures(door: Door, judged: Judged | None, now: float) -> str:
    """Return what is known of an engine: what is expected of it or, where it is no choice, why not."""
    if judged is None:
        return _state(door)
    if judged.candidate.usable:
        return "; ".join(filter(None, (describe(judged, now), described(door))))
    avoided = ", left alone for a while after it would not reply" if door.gate.usable(now) else ""
    return f"{_state(door)}{avoided}"


def _state(door: Door) -> str:
    gate, breaker = door.gate, door.gate.breaker
    out = f"out of the route ({breaker.reason.name.lower()})" if breaker.state is not State.CLOSED else "in the route"
    busy = f"{gate.slot.total_in_use()} of {gate.limit} slots in use, {gate.slot.total_waiting()} waiting"
    usual = gate.usual_seconds()
    lately = "" if usual is None else f", a whole reply takes {usual:.1f} s lately"
    abilities = described(door)
    return f"{name(door)}: {out}, {busy}{lately}{'; ' if abilities else ''}{abilities}"
