"""Reads and watches a stream in given pieces, as the router does."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from athena.router.dialects import codec
from athena.router.errors import BackendError
from athena.router.types import Dialect, Event, Operation, Usage


@dataclass
class Heard:
    """What a reader made of a stream."""

    events: list[Event] = field(default_factory=list)
    failure: BackendError | None = None


@dataclass
class Seen:
    """What a watch made of a stream: whether a token came, and how it ended."""

    begun: bool = False
    usage: Usage | None = None
    failure: BackendError | None = None


def read(dialect: Dialect, pieces: Iterable[bytes]) -> Heard:
    """Return the events of the whole stream."""
    reader = codec(dialect).reader(Operation.CHAT)
    heard = Heard()
    try:
        for piece in pieces:
            heard.events += reader.feed(piece)
        heard.events += reader.end()
    except BackendError as error:
        heard.failure = error
    return heard


def watched(dialect: Dialect, pieces: Iterable[bytes]) -> Seen:
    """Return what a watch says of the whole stream."""
    watch = codec(dialect).watch(Operation.CHAT)
    seen = Seen()
    try:
        for piece in pieces:
            seen.begun = watch.feed(piece)
        seen.usage = watch.end()
    except BackendError as error:
        seen.failure = error
    return seen
