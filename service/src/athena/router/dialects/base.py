"""What every dialect can do. All of it is pure: bytes in, values out, no I/O."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from athena.errors import AthenaError
from athena.router.dialects.decoding import Head
from athena.router.types import Delta, Event, Finish, Operation, Request, Usage


class StreamReader(Protocol):
    """Reads the stream of one reply, in pieces of any size, into events.

    `grew` says whether what was fed last has added to something that is given out later: a tool call.
    """

    grew: bool

    def feed(self, data: bytes) -> Sequence[Event]:
        """Return the events that these bytes complete.

        Raises BackendError where the engine reports an error in the stream (Ollama does so under status 200) or the
        bytes are not the dialect.
        """
        ...

    def end(self) -> Sequence[Event]:
        """Return the events of a last line that the end of the connection completes.

        Raises BackendError(EMPTY) unless the end mark was seen.
        """
        ...


class StreamWatch(Protocol):
    """Watches a stream that is passed through as it is, at the least cost a chunk.

    `ended` says whether the end mark has come, to the end of its line or event: nothing of meaning follows.
    """

    ended: bool

    def feed(self, data: bytes) -> bool:
        """Return whether a token has been seen so far; until then the bytes are held back.

        Before the first token every line is read, and BackendError is raised as by StreamReader; after it only as much
        as finding an error or the end takes.
        """
        ...

    def end(self) -> Usage | None:
        """Return the last event's usage, if it had any; raises BackendError(EMPTY) unless the end mark was seen."""
        ...


class ReplyEncoder(Protocol):
    """Writes one reply in the caller's dialect: as a stream event by event, or whole."""

    content_type: bytes

    def start(self) -> bytes:
        """Return what a stream opens with (OpenAI's role announcement), or nothing."""
        ...

    def delta(self, event: Delta) -> bytes:
        """Return the stream's next piece."""
        ...

    def finish(self, event: Finish) -> bytes:
        """Return the end of the stream, its end mark included."""
        ...

    def broken(self, error: AthenaError) -> bytes:
        """Return the error event that ends a stream which broke after its first byte."""
        ...

    def whole(self, events: Sequence[Event]) -> bytes:
        """Return the whole reply as one JSON body; the last event is the Finish."""
        ...


class Codec(Protocol):
    """One dialect, for callers (decode requests, encode replies) and for engines (the other way round)."""

    def peek(self, operation: Operation, body: bytes) -> tuple[Head, bool]:
        """Return what routing looks at, and whether a stream is wanted (the dialect's default where none is named).

        Raises RequestRejectedError where the body is no JSON object or names no model.
        """
        ...

    def decode_request(self, operation: Operation, body: bytes) -> Request:
        """Return the neutral request; raises RequestRejectedError with the field at fault."""
        ...

    def encode_request(self, request: Request) -> bytes:
        """Return a body for an engine of this dialect; fields that are None are left out, never sent as null."""
        ...

    def reader(self, operation: Operation) -> StreamReader:
        """Return a reader for one stream."""
        ...

    def watch(self, operation: Operation) -> StreamWatch:
        """Return a watch for one stream."""
        ...

    def usage_of_reply(self, operation: Operation, body: bytes) -> Usage:
        """Return the usage of a whole reply that is passed through; raises BackendError where it is no proper reply."""
        ...

    def encoder(
        self,
        operation: Operation,
        model: str,
        *,
        include_usage: bool = True,
        started: float | None = None,
        echo: Mapping[str, Any] | None = None,
    ) -> ReplyEncoder:
        """Return an encoder for one reply, in the name of `model`.

        `started` is when the request came, by time.perf_counter(); None: now. Ollama's dialect tells the total time.
        `echo` is that of the request, which a response repeats.
        """
        ...

    def encode_error(self, error: AthenaError) -> bytes:
        """Return the JSON body of an error answer, as the dialect's own servers write it."""
        ...
