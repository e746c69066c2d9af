"""How likely the tokens of a reply were: whether an engine that was asked for it tells it at all."""

from collections.abc import Iterable

from athena.router.errors import BackendError, FailureKind
from athena.router.types import Delta, Event


class Likelihood:
    """Lets a reply through whose first piece tells how likely its tokens were.

    An Ollama from before version 0.12.11 takes the question and drops it.
    """

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told = False

    def of(self, events: Iterable[Event]) -> list[Event]:
        """Return the next events of the reply; raises BackendError(UNSUITABLE) where the first says nothing of it."""
        known = list(events)
        first = next((event for event in known if isinstance(event, Delta)), None)
        if first is not None and not self._told:
            if not first.tokens:
                detail = "it does not tell how likely its tokens are (Ollama does from version 0.12.11)"
                raise BackendError(FailureKind.UNSUITABLE, detail, field="logprobs")
            self._told = True
        return known
