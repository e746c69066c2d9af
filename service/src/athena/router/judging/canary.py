"""The share of a canary: grows by itself while it is as good as what it is to replace, and goes back when it is not."""

from enum import StrEnum

import msgspec

from athena.router.judging.comparing import Difference, Tally, compare


class Stage(StrEnum):
    """What becomes of a canary just now."""

    GROWING = "growing"
    BACK = "back"  # it gets nothing until it has rested
    WHOLE = "whole"  # it gets everything


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a canary is held to, and how it grows.

    It may have `more_errors` than the other (a share of requests) and be slower by `times` to the first token; beyond
    that it goes back as soon as this is sure by `confidence`. Its share grows by `step` times whenever it has answered
    `enough` requests since it last grew. After it went back it rests `rest` seconds, twice as long each time.
    """

    start: float = 0.01
    step: float = 2.0
    enough: int = 50
    more_errors: float = 0.01
    times: float = 1.25
    confidence: float = 0.999
    rest: float = 600.0


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """Where a canary stands. `because` says in words why its share is what it is; `falls` how often it went back.

    `before` is what was seen of the other's errors until the canary got everything: the other does nothing from then on
    that it could be compared with. Not of the other's times, which depend on how many callers there are.
    """

    share: float
    stage: Stage = Stage.GROWING
    since: float = 0.0
    falls: int = 0
    because: str = "it has just begun"
    before: Tally | None = None


def begun(bounds: Bounds, now: float) -> Canary:
    """Return a canary at its first share."""
    return Canary(share=bounds.start, since=now)


def advance(canary: Canary, bounds: Bounds, new: Tally, old: Tally, now: float) -> Canary:
    """Return where a canary stands after what was seen of it and of the other since its share last changed.

    The caller begins new tallies whenever the share changes. Where the other did too little to be compared with, the
    canary waits; one that has everything is compared with what the other did before.
    """
    if canary.stage is Stage.BACK:
        if now - canary.since < bounds.rest * 2.0 ** (canary.falls - 1):
            return canary
        return Canary(share=bounds.start, since=now, falls=canary.falls, because="it has rested and tries again")
    if canary.before is not None:
        known = canary.before
        old = msgspec.structs.replace(old, requests=old.requests + known.requests, errors=old.errors + known.errors)
    difference = compare(new, old, times=bounds.times, more=bounds.more_errors)
    fault = _fault(difference, bounds)
    if fault is not None:
        return Canary(share=0.0, stage=Stage.BACK, since=now, falls=canary.falls + 1, because=f"it went back: {fault}")
    if canary.stage is Stage.WHOLE or new.requests < bounds.enough or old.requests < min(bounds.enough, new.requests):
        return canary
    if difference.slower > bounds.times or difference.more_errors > bounds.more_errors:
        return canary  # it may be chance: more has to be seen
    share = min(canary.share * bounds.step, 1.0)
    is_whole = share >= 1.0
    slower = f"{difference.slower:.2f} times the other's" if new.times and old.times else "nothing seen of the"
    told = f"{new.requests} requests, {new.errors} failed, {slower} time to first token"
    return Canary(
        share=share,
        stage=Stage.WHOLE if is_whole else Stage.GROWING,
        since=now,
        falls=canary.falls,
        because=f"it grew: {told}",
        before=Tally(requests=old.requests, errors=old.errors) if is_whole else None,
    )


def _fault(difference: Difference, bounds: Bounds) -> str | None:
    if difference.errors_confidence >= bounds.confidence:
        return f"{difference.more_errors:+.1%} errors, sure by {difference.errors_confidence:.2%} (Fisher's exact test)"
    if difference.slower_confidence >= bounds.confidence:
        return (
            f"{difference.slower:.2f} times the time to first token, more than {bounds.times:g} times being sure by "
            f"{difference.slower_confidence:.2%} (Welch's t-test)"
        )
    return None
