"""The path of a request for a reply: from the caller's bytes to an engine and back, watched at both ends."""

import asyncio
from time import perf_counter

import structlog

from athena.errors import AthenaError
from athena.observability.metrics import NO_PROVIDER, OTHER_MODEL, ProxyMetrics
from athena.proxy.http import (
    Answer,
    CallerLeftError,
    Header,
    InternalError,
    Limits,
    PayloadTooLargeError,
    Receive,
    Scope,
    Send,
    SlowSenderError,
    error_answer,
    read_body,
    refuse_body,
    request_id,
    send_answer,
)
from athena.router.call import Call
from athena.router.dialects import ReplyEncoder, codec
from athena.router.dispatch import Dispatcher, OpenReply
from athena.router.errors import RequestRejectedError
from athena.router.snapshot import Configuration
from athena.router.types import Dialect, Event, Finish, Operation, Target, Usage

log = structlog.get_logger()

_CALLER_LEFT = "cancelled"
_SHUTDOWN = "shutdown"
_LONGEST_HELD_LINE = 1024 * 1024  # a longer one is passed on in parts, so that memory stays bounded
_STREAM_HEADERS: tuple[Header, ...] = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
_CLOSE: Header = (b"connection", b"close")


class Forwarder:
    """Serves requests for a reply, and counts how each one went."""

    def __init__(
        self, dispatcher: Dispatcher, configuration: Configuration, metrics: ProxyMetrics, limits: Limits
    ) -> None:
        self._dispatcher = dispatcher
        self._configuration = configuration
        self._metrics = metrics
        self._limits = limits

    async def serve(self, dialect: Dialect, operation: Operation, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens on the way."""
        exchange = _Exchange(dialect, operation, scope, send)
        self._metrics.active.inc()
        try:
            call = await self._take(exchange, scope, receive)
            if call is not None:
                await self._answer(exchange, call, receive)
        except CallerLeftError:
            exchange.error_type = _CALLER_LEFT
        except Exception:
            log.exception("unexpected_error", method=scope["method"], path=scope["path"])
            exchange.error_type = InternalError.code
            if not exchange.answered:
                await exchange.refuse(InternalError("The proxy failed on this request; its log has the cause."))
        finally:
            self._metrics.active.dec()
            self._record(exchange)

    async def _take(self, exchange: "_Exchange", scope: Scope, receive: Receive) -> Call | None:
        """Return the call that the caller makes, or None after having answered that it is none."""
        try:
            body = await read_body(scope, receive, self._limits)
            call = exchange.call = Call(exchange.dialect, exchange.operation, body)
        except (PayloadTooLargeError, SlowSenderError) as error:
            await refuse_body(receive, self._limits)
            await exchange.refuse(error, _CLOSE)
        except AthenaError as error:
            await exchange.refuse(error)
        except RecursionError:
            await exchange.refuse(RequestRejectedError("The JSON is nested too deeply."))
        else:
            return call
        return None

    async def _answer(self, exchange: "_Exchange", call: Call, receive: Receive) -> None:
        departure = exchange.departure = _Departure(receive)
        reply: OpenReply | None = None
        try:
            reply = await self._dispatcher.open(call)
            exchange.took(reply.target)
            if call.stream:
                await exchange.stream(call, reply)
            else:
                await exchange.whole(call, reply)
        except AthenaError as error:
            await exchange.refuse(error)
        except asyncio.CancelledError:
            if not departure.forgive():
                exchange.error_type = _SHUTDOWN
                raise
            exchange.error_type = _CALLER_LEFT
        finally:
            departure.over = True
            if reply is not None:
                await reply.aclose()

    def _record(self, exchange: "_Exchange") -> None:
        call, target = exchange.call, exchange.target
        known = call is not None and bool(self._configuration.snapshot.routes.get(call.model))
        self._metrics.record(
            exchange.operation,
            call.model if call is not None and known else OTHER_MODEL,
            target.engine if target is not None else NO_PROVIDER,
            exchange.error_type,
            seconds=perf_counter() - exchange.started,
            first_token=exchange.first_token,
            usage=exchange.usage,
        )


class _Departure:
    """Cancels the task that serves a caller as soon as the caller has gone, until `over` is set.

    The watching task ends by itself: the server reports a disconnect once an answer is complete as well.
    """

    __slots__ = ("_server", "_watcher", "gone", "over")

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is served inside a task")
        self.gone = False
        self.over = False
        self._server = task
        self._watcher = asyncio.ensure_future(self._watch(receive))

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self.over:
            self.gone = True
            self._server.cancel()

    def forgive(self) -> bool:
        """Return whether a cancellation was this watch's own, and if so take it back."""
        if self.gone:
            self._server.uncancel()
        return self.gone


class _Exchange:
    """One request and what becomes of it. `answered` says that the head of an answer has been sent."""

    def __init__(self, dialect: Dialect, operation: Operation, scope: Scope, send: Send) -> None:
        self.started = perf_counter()
        self.dialect = dialect
        self.operation = operation
        self.call: Call | None = None
        self.departure: _Departure | None = None
        self.target: Target | None = None
        self.first_token: float | None = None
        self.usage: Usage | None = None
        self.error_type = ""
        self.answered = False
        identity = request_id(scope)
        structlog.contextvars.bind_contextvars(request_id=identity.decode())
        self._headers: list[Header] = [(b"x-request-id", identity)]
        self._send = send

    def took(self, target: Target) -> None:
        """Note the engine that answers; the answer's headers name it."""
        self.target = target
        identity = b"default" if target.backend.id is None else b"%d" % target.backend.id
        self._headers.append((b"x-athena-backend", target.engine.encode()))
        self._headers.append((b"x-athena-backend-id", identity))

    async def refuse(self, error: AthenaError, *headers: Header) -> None:
        """Answer with an error, in the caller's dialect."""
        self.error_type = error.code
        await self._finish(error_answer(self.dialect, error, headers=headers))

    async def whole(self, call: Call, reply: OpenReply) -> None:
        """Answer once the whole reply is there."""
        if reply.passthrough:
            answer = Answer(body=reply.body, content_type=reply.content_type.encode("latin-1"))
        else:
            events: list[Event] = [event async for event in reply.events()]
            answer = Answer(body=self._encoder(call).whole(events))
        self.usage = reply.usage
        await self._finish(answer)

    async def stream(self, call: Call, reply: OpenReply) -> None:
        """Answer piece by piece.

        After a break the stream ends in the dialect's error event, and the connection is closed without the end of the
        body: nobody can take it for a whole one.
        """
        self.first_token = perf_counter() - self.started
        encoder = None if reply.passthrough else self._encoder(call)
        content_type = reply.content_type if encoder is None else encoder.content_type
        self.answered = True
        head = [(b"content-type", content_type.encode("latin-1")), *_STREAM_HEADERS, *self._headers]
        await self._send({"type": "http.response.start", "status": 200, "headers": head})
        try:
            await (self._pass(reply) if encoder is None else self._translate(reply, encoder))
        except AthenaError as error:
            self.error_type = error.code
            # The blank line ends an SSE event of the engine that lacks its own; one too many does no harm.
            lead = b"\n" if encoder is None and self.dialect is Dialect.OPENAI else b""
            encoder = encoder or codec(self.dialect).encoder(call.operation, call.model)
            await self._piece(lead + encoder.broken(error))
        else:
            self.usage = reply.usage
            self._over()
            await self._send({"type": "http.response.body", "body": b""})

    async def _pass(self, reply: OpenReply) -> None:
        """Send the engine's bytes as they come but no line in parts, so that an error event can follow any piece."""
        held = b""
        async for piece in reply.raw():
            if piece.endswith(b"\n") and not held:
                await self._piece(piece)
                continue
            held += piece
            end = held.rfind(b"\n") + 1 if len(held) < _LONGEST_HELD_LINE else len(held)
            if end:
                await self._piece(held[:end])
                held = held[end:]
        if held:
            await self._piece(held)

    async def _translate(self, reply: OpenReply, encoder: ReplyEncoder) -> None:
        lead = encoder.start()
        async for event in reply.events():
            await self._piece(lead + (encoder.finish(event) if isinstance(event, Finish) else encoder.delta(event)))
            lead = b""

    async def _piece(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _finish(self, answer: Answer) -> None:
        self._over()
        self.answered = True
        await send_answer(self._send, answer, self._headers)

    def _over(self) -> None:
        if self.departure is not None:
            self.departure.over = True

    def _encoder(self, call: Call) -> ReplyEncoder:
        return codec(self.dialect).encoder(
            call.operation, call.model, include_usage=call.request.include_usage, started=self.started
        )
