"""A reply whose text is told to the log, where a setting asks for that; no other reply pays for it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from athena.errors import AthenaError
from athena.observability.content import ContentLog
from athena.router.attempt import Attempt
from athena.router.call import Call
from athena.router.dialects import ReplyEncoder, codec
from athena.router.dialects.decoding import BAD_JSON
from athena.router.errors import BackendError
from athena.router.reply import OpenReply
from athena.router.types import Delta, Dialect, Event, Operation
from athena.router.upstream_reply import UpstreamReply

_KEPT_BYTES = 256 * 1024  # of a stream: far more than the log shows, with what stands around each word of it


def tell_prompt(content: ContentLog, call: Call) -> None:
    """Tell what a call asks; of one that cannot be read nothing, for its engine says what is wrong with it."""
    try:
        request = call.request
    except AthenaError:
        return
    text = request.messages[-1].content if request.messages else request.prompt
    content.prompt(call, text, messages=len(request.messages))


class ToldReply(OpenReply):
    """An open reply that tells its text once it has been taken, whole or not."""

    __slots__ = ("_content", "_dialect")

    def __init__(
        self,
        content: ContentLog,
        call: Call,
        attempt: Attempt,
        upstream: UpstreamReply,
        dialect: Dialect,
        *,
        passthrough: bool,
    ) -> None:
        super().__init__(call, attempt, upstream, dialect, passthrough=passthrough)
        self._content = content
        self._dialect = dialect

    async def begin(self) -> None:
        """Begin; what is passed on whole is there then."""
        await super().begin()
        if self.passthrough and not self._call.stream:
            self._content.answer(self._call, text_of_whole(self.body), whole=True)

    async def relay(self, write: Callable[[bytes], None], encoder: ReplyEncoder | None = None) -> None:
        """Relay, and keep what was said: the engine's own bytes, or the events that they are put into words from."""
        kept = bytearray()
        listening = _Listening(encoder) if encoder is not None else None
        whole = False

        def write_and_keep(data: bytes) -> None:
            if listening is None and len(kept) < _KEPT_BYTES:
                kept.extend(data)
            write(data)

        try:
            await super().relay(write_and_keep, listening)
            whole = True
        finally:
            if listening is not None:
                text = "".join(listening.said)
            else:
                text = text_of_stream(self._dialect, self._call.operation, bytes(kept))
            self._content.answer(self._call, text, whole=whole)

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events, and keep their text."""
        said: list[str] = []
        whole = False
        try:
            async for event in super().events():
                if isinstance(event, Delta):
                    said.append(event.text)
                yield event
            whole = True
        finally:
            self._content.answer(self._call, "".join(said), whole=whole)


class _Listening:
    """An encoder that keeps the text of the events that it is given."""

    def __init__(self, encoder: ReplyEncoder) -> None:
        self.said: list[str] = []
        self.content_type = encoder.content_type
        self.start = encoder.start
        self.finish = encoder.finish
        self.broken = encoder.broken
        self.whole = encoder.whole
        self._delta = encoder.delta

    def delta(self, event: Delta) -> bytes:
        self.said.append(event.text)
        return self._delta(event)


def text_of_stream(dialect: Dialect, operation: Operation, data: bytes) -> str:
    """Return the text in the lines of an engine's stream, up to the first that is none of its dialect."""
    reader = codec(dialect).reader(operation)
    said: list[str] = []
    for line in data.split(b"\n"):
        try:
            events = reader.feed(line + b"\n")
        except BackendError:
            break
        said += [event.text for event in events if isinstance(event, Delta)]
    return "".join(said)


def text_of_whole(body: bytes) -> str:
    """Return the text of a whole reply in either dialect; empty where it has none, as with calls of tools."""
    try:
        reply: Any = msgspec.json.decode(body)
        said = reply["choices"][0] if "choices" in reply else reply
        text = said["message"]["content"] if "message" in said else said.get("text", said.get("response"))
    except (*BAD_JSON, LookupError, TypeError, AttributeError):
        return ""
    return text if isinstance(text, str) else ""
