"""Which target of a priority, or of an `auto` backend, gets a prompt: the one that should be done with it first."""

from collections.abc import Sequence

import msgspec

from athena.router.judging.estimates import Estimate

EXPLORED = 0.02
"""Share of prompts that go to a target whose figures are old, to renew them."""
STALE_SECONDS = 60.0
"""Age from which figures are old."""
WORTH_EXPLORING = 3.0
"""Times as long as the best may a target be thought to take that is explored, until its figures are outdated."""
OUTDATED_SECONDS = 600.0
"""Age from which figures do not even say that a target is much too slow: five times their half-life."""
HYSTERESIS = 0.15
"""By which share another target has to be better than the one that was chosen last."""
AS_GOOD = 1.2
"""Times as long as the best may a target take that is as good as it: whichever has a slot first gets the prompt."""

LOAD_COUNTS = 4.0
"""Times its own seconds a load of the model counts: it pushes out another one, which others then have to load again."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a target for one prompt.

    `usable` is false where its breaker is open or it wants to be left alone. `busy` is how many requests it has for
    each of its slots, those that wait included; `wait` the seconds until one is free; `load` those that its model takes
    to load (0: it is loaded, or nobody knows). `first` and `token` are seconds until the first token and for each one
    of the reply; None where nothing was seen yet. `warm_bytes` of the prompt it has served before.
    """

    name: str
    usable: bool
    busy: float = 0.0
    wait: float = 0.0
    load: float = 0.0
    first: Estimate | None = None
    token: Estimate | None = None
    warm_bytes: int = 0


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate and what is expected of it: the seconds until the end of the reply; None where nothing was seen.

    `cost` is what is compared: the same, with what a load of the model costs the others.
    """

    candidate: Candidate
    seconds: float | None
    cost: float | None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """`order` are the candidates' places, best first, those out of use at the end; the first `together` are as good as
    the best. `explores` says that the first is there to be seen, not because it is the best. `because` says why in
    words; `judged` are the figures, in the order of the candidates.
    """

    order: tuple[int, ...]
    together: int
    because: str
    judged: tuple[Judged, ...]
    explores: bool = False


def choose(candidates: Sequence[Candidate], *, tokens: float, last: str | None, now: float, chance: float) -> Choice:
    """Choose among the targets for a prompt whose reply is expected to have so many tokens.

    `last` is the name of the one that was chosen before; `chance` a number from 0 to 1 drawn for this prompt.
    """
    judged = tuple(_judged(one, tokens) for one in candidates)
    usable = [place for place, one in enumerate(candidates) if one.usable]
    unusable = [place for place, one in enumerate(candidates) if not one.usable]
    if not usable:
        return Choice(order=tuple(unusable), together=1, because="none is in use", judged=judged)
    known = [cost for place in usable if (cost := judged[place].cost) is not None]
    if not known:
        # Nothing is known: the route's own order, but not all to the first while it has its hands full.
        least = {place: (int(candidates[place].busy), candidates[place].load) for place in usable}
        usable.sort(key=lambda place: (least[place], place))
        first = usable[0]
        # Where it has to wait, one is as good as another that has no more to do.
        together = sum(least[place] == least[first] for place in usable) if least[first][0] else 1
        said = f"nothing is known yet; {candidates[first].name} has the least to do"
        return _of(usable, unusable, judged, together, said)
    best = min(known)

    def key(place: int) -> float:
        one, cost = candidates[place], judged[place].cost
        if cost is None:
            # Better than the best until it is known, for one prompt at a time for each of its slots; but for a load.
            return best * (0.99 * (1.0 - HYSTERESIS) + one.busy) + one.load
        return cost * (1.0 - HYSTERESIS) if one.name == last else cost

    usable.sort(key=key)
    first = usable[0]
    stale = _to_explore(candidates, judged, usable, now)
    if stale is not None and chance < EXPLORED:
        usable.remove(stale)
        usable.insert(0, stale)
        because = f"{candidates[stale].name} to see how fast it is now"
        return Choice(order=(*usable, *unusable), together=1, because=because, judged=judged, explores=True)
    together = sum(key(place) <= key(first) * AS_GOOD for place in usable) if candidates[first].wait > 0 else 1
    return _of(usable, unusable, judged, together, _reason(judged, usable, last))


def expected(candidate: Candidate, tokens: float) -> float | None:
    """Return in how many seconds a reply of so many tokens is expected to be whole; None where nothing was seen."""
    if candidate.first is None:
        return None
    writing = candidate.token.value * tokens if candidate.token is not None else 0.0
    return candidate.wait + candidate.load + candidate.first.value + writing


def _judged(candidate: Candidate, tokens: float) -> Judged:
    seconds = expected(candidate, tokens)
    cost = seconds + (LOAD_COUNTS - 1.0) * candidate.load if seconds is not None else None
    return Judged(candidate=candidate, seconds=seconds, cost=cost)


def describe(one: Judged, now: float) -> str:
    """Return what is expected of a target, in words."""
    candidate = one.candidate
    if not candidate.usable:
        return f"{candidate.name}: out of use"
    if candidate.first is None or one.seconds is None:
        return f"{candidate.name}: nothing is known yet"
    parts = [f"first token in {candidate.first.value:.2f} s"]
    if candidate.token is not None and candidate.token.value > 0:
        parts.append(f"{1 / candidate.token.value:.1f} tokens/s")
    if candidate.wait > 0:
        parts.append(f"a slot in {candidate.wait:.1f} s")
    if candidate.load > 0:
        parts.append(f"its model loaded in {candidate.load:.1f} s")
    if candidate.warm_bytes:
        parts.append(f"has served {candidate.warm_bytes} bytes of it before")
    seen = f"{candidate.first.observations} seen, the last {max(now - candidate.first.at, 0.0):.0f} s ago"
    return f"{candidate.name}: {one.seconds:.1f} s ({', '.join(parts)}; {seen})"


def _of(
    usable: Sequence[int], unusable: Sequence[int], judged: tuple[Judged, ...], together: int, because: str
) -> Choice:
    return Choice(order=(*usable, *unusable), together=together, because=because, judged=judged)


def _to_explore(
    candidates: Sequence[Candidate], judged: Sequence[Judged], usable: Sequence[int], now: float
) -> int | None:
    """Return the target with the oldest figures, if they are old and it is idle.

    Not one that is thought to be much too slow, unless its figures are outdated: it may have recovered.
    """
    best = judged[usable[0]].cost
    found = None
    for place in usable[1:]:
        first, cost = candidates[place].first, judged[place].cost
        if first is None or cost is None or candidates[place].busy > 0 or now - first.at < STALE_SECONDS:
            continue
        if best is not None and cost > best * WORTH_EXPLORING and now - first.at < OUTDATED_SECONDS:
            continue
        if found is None or first.at < found[0]:
            found = (first.at, place)
    return found[1] if found is not None else None


def _reason(judged: Sequence[Judged], usable: Sequence[int], last: str | None) -> str:
    first = judged[usable[0]]
    name = first.candidate.name
    if first.seconds is None:
        return f"{name}, of which nothing is known yet"
    if len(usable) == 1:
        return f"{name} is the only one in use"
    second = judged[usable[1]]
    said = f"{name} is expected to be done in {first.seconds:.1f} s"
    if second.seconds is None:
        return f"{said}; nothing is known of {second.candidate.name}"
    if second.seconds < first.seconds and second.candidate.load > first.candidate.load:
        return f"{said}; {second.candidate.name} in {second.seconds:.1f} s, but would have to load the model for it"
    if name == last and second.seconds < first.seconds:
        return f"{said}; {second.candidate.name} in {second.seconds:.1f} s, which is too little a gain to change"
    return f"{said}, {second.candidate.name} in {second.seconds:.1f} s"
