"""One attempt at an engine, and the reply that comes of it."""

from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
import structlog

from athena.router.attempt import Attempt
from athena.router.call import Call
from athena.router.dialects import ReplyEncoder, StreamReader, StreamWatch, codec
from athena.router.dialects.lines import WholeLines
from athena.router.dialects.ollama_requests import tells_likelihood
from athena.router.errors import BackendError, FailureKind, StreamBrokenError
from athena.router.likelihood import Likelihood
from athena.router.one_call import OneCall
from athena.router.types import Dialect, Event, Finish, Operation, Usage
from athena.router.upstream_reply import BODY_LIMIT, UpstreamReply
from athena.router.vector_each import VectorEach

_NO_TOKEN = (b":", b"\n", b"\r")  # how a comment or a blank line begins
HELD_LIMIT = 1024 * 1024  # bytes of a stream that may come before its first token
log = structlog.get_logger()


class OpenReply:
    """A reply that has begun: whoever holds it takes it once, in one of its forms, and calls `close()` at last.

    A stream is taken by `relay()` or, unless `passthrough` says that it goes to the caller as it is, as `events()`; a
    whole reply by `events()` or, passed through, as `body`. `content_type` is that of the engine's own bytes. `usage`
    is known once the reply has been taken to its end, None where the engine did not count (the proxy's metrics read
    it); so are `succeeded`, whether the reply came whole, `seconds`, the time that it took, and `tokens_per_second`, 0
    where nothing was counted.
    """

    __slots__ = (
        "_advanced", "_attempt", "_call", "_codec", "_events", "_held", "_looks", "_reader", "_upstream", "_watch",
        "body", "content_type", "passthrough", "settled", "succeeded", "target", "usage",
    )  # fmt: skip

    def __init__(
        self, call: Call, attempt: Attempt, upstream: UpstreamReply, dialect: Dialect, *, passthrough: bool
    ) -> None:
        self.target = attempt.door.target
        self.passthrough = passthrough
        self.content_type = upstream.content_type or b"application/json"
        self.usage: Usage | None = None
        self.body = b""
        self._attempt = attempt
        self._upstream = upstream
        self._call = call
        self._codec = codec(dialect)
        self._held: list[bytes] = []
        self._events: list[Event] = []
        self._advanced = False
        self._watch: StreamWatch | None = None
        self._reader: StreamReader | None = None
        self._looks: list[Likelihood | OneCall | VectorEach] = []
        self.settled = False
        self.succeeded = False

    @property
    def seconds(self) -> float:
        """How long the whole reply took."""
        return self._attempt.seconds

    @property
    def tokens_per_second(self) -> float:
        """How fast the engine wrote."""
        return self._attempt.tokens_per_second

    async def begin(self) -> None:
        """Hold the reply back until it can be trusted: a stream until its first token, any other to its end.

        Raises BackendError, after which another engine may still be tried.
        """
        if not self.passthrough:
            await self._begin_events()
        elif self._call.stream:
            await self._begin_stream()
        else:
            await self._take_whole()
        if not self.settled:
            self._attempt.saw_first_token()
            self._upstream.set_idle_limit(self._attempt.door.stall_seconds)

    async def relay(self, write: Callable[[bytes], None], encoder: ReplyEncoder | None = None) -> None:
        """Hand the stream to `write` piece by piece, as it comes from the engine, and return at its end.

        Each piece is one or more whole lines: the engine's own where the reply is passed through, otherwise what
        `encoder` makes of its events. Raises StreamBrokenError if the stream breaks off.
        """
        try:
            if encoder is None:
                await self._pass(write)
            else:
                await self._translate(write, encoder)
        except BackendError as error:
            if not self.settled:  # behind the end mark nothing can break any more
                raise self._break(error) from error

    def pause(self) -> None:
        """Hold the engine back: the caller takes less than it writes."""
        self._upstream.pause()

    def resume(self) -> None:
        """Let the engine go on."""
        self._upstream.resume()

    async def events(self) -> AsyncIterator[Event]:
        """Yield the reply's events, a Finish last; raises StreamBrokenError if it breaks off before that."""
        for event in self._events:
            yield event
        self._events.clear()
        while not self.settled:
            try:
                events = self._events_of(await self._upstream.read())
            except BackendError as error:
                raise self._break(error) from error
            if self._advanced:
                self._upstream.note_progress()
            for event in events:
                yield event

    def close(self) -> None:
        """End the reply, cancelling the engine's work where it is not done; may be called at any time, repeatedly."""
        if self.settled:
            return
        if self._watch is not None:
            # A caller that has seen the end mark may well leave before the engine closes the stream: that is success.
            try:
                usage = self._watch.end()
            except BackendError:
                pass  # it left in the middle: neither success nor failure
            else:
                self._succeed(usage)
                self._upstream.release()
                return
        self.settled = True
        self._upstream.close()
        self._attempt.abandoned()

    async def _pass(self, write: Callable[[bytes], None]) -> None:
        lines = WholeLines()
        for data in self._held:
            if whole := lines.feed(data):
                write(whole)
        self._held.clear()
        watch = self._watch
        if watch is None or self.settled:
            self._write_rest(lines, write)
            return
        watched, feed = watch.feed, lines.feed

        def take(data: bytes) -> bool:
            watched(data)
            whole = feed(data)
            if whole:
                write(whole)
            if watch.ended:
                self._end(watch, lines, write)
            return bool(whole) and (not whole.startswith(_NO_TOKEN) or b"\ndata:" in whole)

        if not watch.ended:
            await self._upstream.push(take)
        if not self.settled:
            self._end(watch, lines, write)

    def _end(self, watch: StreamWatch, lines: WholeLines, write: Callable[[bytes], None]) -> None:
        """Settle a stream that is passed through by its end mark; some engines never end the body behind it."""
        usage = watch.end()
        self._write_rest(lines, write)
        self._succeed(usage)
        self._upstream.release()

    @staticmethod
    def _write_rest(lines: WholeLines, write: Callable[[bytes], None]) -> None:
        if rest := lines.rest():
            write(rest)

    async def _translate(self, write: Callable[[bytes], None], encoder: ReplyEncoder) -> None:
        def encode(events: Sequence[Event]) -> bytes:
            return b"".join(
                [encoder.finish(event) if isinstance(event, Finish) else encoder.delta(event) for event in events]
            )

        def take(data: bytes) -> bool:
            events = self._events_of(data)
            if events:
                write(encode(events))
            return self._advanced

        write(encoder.start() + encode(self._events))
        self._events.clear()
        if not self.settled:
            await self._upstream.push(take)
        if not self.settled and (events := self._events_of(b"")):
            write(encode(events))

    async def _take_whole(self) -> None:
        body = await self._upstream.whole()
        if not body:
            raise BackendError(FailureKind.EMPTY, "a reply without a body")
        try:
            usage = self._codec.usage_of_reply(self._call.operation, body)
        except BackendError as error:
            if error.kind is not FailureKind.EMPTY or not self._loads_embedder:
                raise
            usage = Usage()
        self.body = body
        self._succeed(usage)

    @property
    def _loads_embedder(self) -> bool:
        """Whether the call embeds an empty text, by which callers of Ollama load a model: the reply has no vector."""
        call = self._call
        return call.operation is Operation.EMBED and call.dialect is Dialect.OLLAMA and not any(call.request.inputs)

    async def _begin_stream(self) -> None:
        watch = self._watch = self._codec.watch(self._call.operation)
        size = 0
        while True:
            data = await self._upstream.read()
            if not data:
                self._succeed(watch.end())  # nothing was written, but it ended properly
                return
            self._held.append(data)
            if watch.feed(data):
                return
            size += len(data)
            if size > HELD_LIMIT:
                raise BackendError(FailureKind.MALFORMED, f"no token in the first {HELD_LIMIT} bytes")

    async def _begin_events(self) -> None:
        self._reader = self._codec.reader(self._call.operation)
        request = self._call.request
        if self._call.operation is Operation.CHAT and tells_likelihood(request):
            self._looks.append(Likelihood())
        if request.extra.get("parallel_tool_calls") is False:
            self._looks.append(OneCall())
        if self._call.operation is Operation.EMBED:
            self._looks.append(VectorEach(len(request.inputs)))
        size = 0
        while not self.settled and not (self._call.stream and self._events):
            data = await self._upstream.read()
            size += len(data)
            if size > BODY_LIMIT:
                raise BackendError(FailureKind.MALFORMED, f"a reply of more than {BODY_LIMIT} bytes")
            self._events += self._events_of(data)
            if self._call.stream and self._advanced:  # a tool call is being written, and given out when it is whole
                self._upstream.set_idle_limit(self._attempt.door.stall_seconds)

    def _events_of(self, data: bytes) -> list[Event]:
        """Return what these bytes mean, b"" the end of the stream; the reply is settled when they contain its end."""
        reader = self._reader
        if reader is None:
            raise AssertionError("a reply that is passed through has no events")
        events = list(reader.feed(data) if data else reader.end())
        self._advanced = bool(events) or reader.grew
        for look in self._looks:
            events = look.of(events)
        if events and isinstance(finish := events[-1], Finish):
            self._succeed(finish.usage)
            self._upstream.release()
            events[-1] = self._measured(finish)
        return events

    def _measured(self, finish: Finish) -> Finish:
        """Put in the router's own measure of the time that writing took, where the engine has none."""
        usage = finish.usage
        if usage.completion_seconds is not None or not self.tokens_per_second:
            return finish
        seconds = usage.completion_tokens / self.tokens_per_second
        return Finish(reason=finish.reason, usage=msgspec.structs.replace(usage, completion_seconds=seconds))

    def _succeed(self, usage: Usage | None) -> None:
        self.settled = self.succeeded = True
        self.usage = usage
        self._attempt.succeeded(usage)

    def _break(self, error: BackendError) -> StreamBrokenError:
        """Settle the reply as failed; returns what to tell its reader."""
        self.settled = True
        self._upstream.close()
        self._attempt.failed(error.kind)
        target = self.target
        log.warning(
            "llm_stream_broken",
            model=self._call.model,
            backend_type=target.engine,
            endpoint=target.endpoint_url,
            error=self._attempt.words(error),
            **self._call.names,
        )
        detail = f"The reply of {target.engine} at {target.endpoint_url} broke off: {error.detail}"
        return StreamBrokenError(error.kind, detail, upstream_status=error.upstream_status)
