"""One call of a tool at a time, for callers that want no more (`parallel_tool_calls: false`), with every engine."""

from collections.abc import Iterable

import msgspec

from athena.router.types import Delta, Event


class OneCall:
    """Lets the first call of a tool in a reply through, and leaves out all others.

    A model asks again for what it still wants to know, once it has been told the answer to the first.
    """

    __slots__ = ("_called",)

    def __init__(self) -> None:
        self._called = False

    def of(self, events: Iterable[Event]) -> list[Event]:
        """Return the next events of the reply as the caller is to hear them."""
        kept: list[Event] = []
        for event in events:
            if not isinstance(event, Delta) or not event.tool_calls:
                kept.append(event)
                continue
            calls = () if self._called else event.tool_calls[:1]
            self._called = True
            if calls or event.text or event.thinking or event.tokens:
                kept.append(msgspec.structs.replace(event, tool_calls=calls))
        return kept
