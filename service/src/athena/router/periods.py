"""The times of watching and probing, and whether this process itself kept to them."""

import msgspec


class Periods(msgspec.Struct, frozen=True, kw_only=True):
    """All times of watching and probing, in seconds.

    `asked_apart` is no time but how many times as long as its answer took an engine that owes answers is not asked
    again: while it is asked, requests go to others, which is to happen to few.
    """

    tick: float = 0.1
    suspect_after: float = 0.25  # a request without a byte
    suspect_again: float = 2.0  # once an engine that was suspected has answered
    owed_after: float = 0.01  # an engine that owes answers gets another request; four replies' time, where that is more
    asked_apart: float = 8.0
    silent_after: float = 4.0  # a request without a byte that says something even where nothing is known to be loaded
    reads_after: float = 1.0  # bytes before a first token that still come so long after the reply's first ones
    move_after: float = 1.0  # silence that moves what waits for its first token at an engine that answers nothing
    cut_after: float = 10.0  # silence in the middle of a stream of a backend that is out of the route
    check_every: float = 2.0  # without a sign of life
    check_within: float = 0.75
    doubt: float = 2.0  # at most, in case nobody is left to end it
    generate_every: float = 3.0  # without a proof
    generate_within: float = 3.0
    idle_after: float = 300.0  # without a request
    idle_generate_every: float = 30.0
    trial_every: float = 1.0  # at a backend that is out of the route
    load: float = 30.0  # that an Ollama may take to load a model
    fresh: float = 1.0  # how long what a worker has seen on its tick holds
    abilities_every: float = 300.0  # what an engine says of what its models do
    abilities_again: float = 5.0  # where it did not say
    abilities_within: float = 5.0
    abilities_tried_after: float = 20.0  # where engines say nothing of it; not while a proxy is just coming up
    abilities_tried_every: float = 3600.0
    abilities_tried_again: float = 60.0  # after a trial that showed nothing; an engine goes on with one that was left
    late: float = 0.25  # a tick that comes so much too late says that this process was held up, not the engines


class Pace:
    """Whether this process itself was held up, so that what came too late proves nothing."""

    def __init__(self, periods: Periods) -> None:
        self._longest = periods.tick + periods.late
        self._ticked_at = 0.0
        self._held_up_at = 0.0

    def tick(self, now: float) -> None:
        """Take note of a tick."""
        if self._ticked_at and now - self._ticked_at > self._longest:
            self._held_up_at = now
        self._ticked_at = now

    def held_up_since(self, begun: float, now: float) -> bool:
        """Whether it was since then, or is just coming to itself."""
        return self._held_up_at >= begun or now - self._ticked_at > self._longest
