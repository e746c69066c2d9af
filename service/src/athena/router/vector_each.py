"""A vector for each text, with every engine whose embeddings are put into the caller's dialect."""

from collections.abc import Iterable

from athena.router.errors import BackendError, FailureKind
from athena.router.types import Delta, Event


class VectorEach:
    """Lets a reply with as many vectors as texts through; raises BackendError at any other, for nobody could tell
    which text a vector belongs to.
    """

    __slots__ = ("_texts",)

    def __init__(self, texts: int) -> None:
        self._texts = texts

    def of(self, events: Iterable[Event]) -> list[Event]:
        """Return the next events of the reply as they are."""
        kept = list(events)
        for event in kept:
            if isinstance(event, Delta) and len(event.vectors) != self._texts:
                detail = f"{len(event.vectors)} vectors for {self._texts} texts"
                raise BackendError(FailureKind.MALFORMED, detail)
        return kept
