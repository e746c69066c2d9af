"""The path of a request for a reply: from the caller's bytes to an engine and back, watched at both ends."""

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Final

import structlog

from athena.errors import AthenaError
from athena.observability.error_types import CANCELLED, SHUTDOWN, ErrorGroup, group_of, named
from athena.observability.gen_ai_metrics import NO_PROVIDER, OPERATION_NAMES, OTHER_MODEL
from athena.observability.proxy_metrics import ProxyMetrics
from athena.proxy.caller import scope_of
from athena.proxy.callers import Callers, priority_of
from athena.proxy.forwarding import Forwarding
from athena.proxy.http import JSON, InternalError
from athena.proxy.loads import is_load, loaded
from athena.proxy.quota import RateLimitError
from athena.proxy.server.errors import ShuttingDownError
from athena.proxy.server.exchange import LEFT, UNREAD, Exchange
from athena.router.call import Call
from athena.router.dispatch import Dispatcher, OpenReply
from athena.router.errors import NeedWithoutHomeError, NoBackendError, RequestRejectedError
from athena.router.snapshot import Configuration
from athena.router.types import Dialect, Event, Operation, Usage

if TYPE_CHECKING:
    from athena.observability.otel import Span, Traces

log = structlog.get_logger()

FIRST_TOKEN_WITHIN_SECONDS = 2.5  # as the alerts promise it: roles/prometheus/files/rules/promises.yml
_UNCACHED: Final = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"


class Forwarder:
    """Serves requests for a reply, and counts how each one went."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        configuration: Configuration,
        metrics: ProxyMetrics,
        callers: Callers,
        traces: "Traces | None" = None,
    ) -> None:
        """`traces` is there where requests are to be traced."""
        self._traces = traces
        self._dispatcher = dispatcher
        self._configuration = configuration
        self._metrics = metrics
        self._callers = callers

    async def serve(self, dialect: Dialect, operation: Operation, exchange: Exchange) -> None:
        """Answer one request, whatever happens on the way."""
        forwarding = Forwarding(dialect, operation, exchange)
        if self._traces is not None:
            forwarding.span = _begin(self._traces, forwarding)
        self._metrics.active.value += 1
        try:
            await self._answer(forwarding)
        except AthenaError as error:
            forwarding.fail(error)
        except RecursionError:
            forwarding.fail(RequestRejectedError("The JSON is nested too deeply."))
        except asyncio.CancelledError:
            if not exchange.gone:
                exchange.close_after()
                forwarding.fail(ShuttingDownError("This server is being shut down; ask again.", retry_after=1))
            if exchange.gone != LEFT or not forwarding.succeeded:
                forwarding.error_type = self._why_cancelled(exchange)
            if forwarding.error_type == CANCELLED:
                _wait_in_vain(forwarding)
            raise
        except Exception:
            log.exception(
                "unexpected_error",
                method=exchange.method,
                path=exchange.path,
                request_id=forwarding.identity.decode(),
                **({"trace_id": forwarding.span.trace_id} if forwarding.span is not None else {}),
            )
            forwarding.fail(InternalError("The proxy failed on this request; its log has the cause."))
        finally:
            self._metrics.active.value -= 1
            if forwarding.quota is not None:
                forwarding.quota.spend(forwarding.tokens())
            self._record(forwarding)

    def refuse(self, dialect: Dialect, operation: Operation, exchange: Exchange, error: AthenaError) -> None:
        """Answer a request that the server did not take, and count it."""
        forwarding = Forwarding(dialect, operation, exchange)
        forwarding.refuse(error)
        self._record(forwarding)

    async def _answer(self, forwarding: Forwarding) -> None:
        exchange = forwarding.exchange
        caller = self._callers.identify(exchange, scope_of(forwarding.operation))
        call = forwarding.call = Call(forwarding.dialect, forwarding.operation, exchange.body)
        exchange.body = b""
        call.caller = caller.name
        call.priority = priority_of(exchange)
        call.request_id = forwarding.identity.decode()
        call.span = forwarding.span
        caller.check_model(call.model)
        if caller.quota is not None:
            try:
                forwarding.limits = await caller.quota.admit()
            except RateLimitError as error:
                forwarding.limits = error.fields
                raise
            forwarding.quota = caller.quota
        try:
            reply = await self._dispatcher.open(call)
        except (NeedWithoutHomeError, NoBackendError):
            if call.operation is Operation.EMBED or not is_load(call):
                raise
            forwarding.target = await self._dispatcher.holder(call.model)
            if forwarding.target is None:
                raise
            forwarding.usage = Usage()
            exchange.respond(200, forwarding.fields(JSON), loaded(call))
            return
        forwarding.target = reply.target
        try:
            if call.stream:
                await _stream(forwarding, call, reply)
            else:
                await _whole(forwarding, call, reply)
        finally:
            if not reply.settled:
                reply.close()
            forwarding.usage = reply.usage
            forwarding.succeeded = reply.succeeded

    def _why_cancelled(self, exchange: Exchange) -> str:
        """Count a caller that has gone; returns the type of error by which its request is counted."""
        if exchange.gone == UNREAD:
            self._metrics.unread_stream()
        elif exchange.gone == LEFT:
            self._metrics.caller_left()
        else:
            return SHUTDOWN
        return CANCELLED

    def _record(self, forwarding: Forwarding) -> None:
        call, target = forwarding.call, forwarding.target
        known = call is not None and bool(self._configuration.snapshot.routes.get(call.model))
        self._metrics.replies.record(
            forwarding.operation,
            call.model if call is not None and known else OTHER_MODEL,
            target.engine if target is not None else NO_PROVIDER,
            target.backend.id if target is not None else None,
            forwarding.error_type,
            seconds=perf_counter() - forwarding.exchange.started,
            first_token=forwarding.first_token,
            usage=forwarding.usage,
        )
        if forwarding.span is not None:
            _end(forwarding.span, forwarding)


def _wait_in_vain(forwarding: Forwarding) -> None:
    """Let a caller that left count as one whose first token was late, where it had waited for longer than is promised.

    Or nobody would see engines that are too slow for callers who give up. One that left sooner says nothing of them.
    """
    call, waited = forwarding.call, perf_counter() - forwarding.exchange.started
    if call is not None and call.stream and forwarding.first_token is None and waited > FIRST_TOKEN_WITHIN_SECONDS:
        forwarding.first_token = waited


def _begin(traces: "Traces", forwarding: Forwarding) -> "Span":
    """Begin the span of a request, in its caller's trace if it names one."""
    exchange = forwarding.exchange
    operation = OPERATION_NAMES[forwarding.operation]
    attributes = {
        "http.request.method": exchange.method,
        "http.route": exchange.path,
        "url.path": exchange.path,
        "gen_ai.operation.name": operation,
        "athena.request.id": forwarding.identity.decode(),
    }
    return traces.serve(operation, exchange.headers, attributes)


def _end(span: "Span", forwarding: Forwarding) -> None:
    """End the span of a request with what has become of it."""
    call, target, error_type = forwarding.call, forwarding.target, named(forwarding.error_type)
    if call is not None:
        span.rename(f"{OPERATION_NAMES[call.operation]} {call.model}")
        span.set({"gen_ai.request.model": call.model})
        if target is not None:
            backend = target.backend.id
            span.set({"gen_ai.provider.name": target.engine.value, "athena.backend.id": str(backend or "default")})
            span.answered(call.model, forwarding.usage)
    if not forwarding.exchange.gone:
        span.set({"http.response.status_code": forwarding.status})
    span.end(error_type, fault=group_of(error_type) == ErrorGroup.BACKEND)


async def _whole(forwarding: Forwarding, call: Call, reply: OpenReply) -> None:
    """Answer once the whole reply is there."""
    if reply.passthrough:
        body, content_type = reply.body, reply.content_type
    else:
        events: list[Event] = [event async for event in reply.events()]
        body, content_type = forwarding.encoder(call).whole(events), JSON
    forwarding.exchange.respond(200, forwarding.fields(content_type), body)


async def _stream(forwarding: Forwarding, call: Call, reply: OpenReply) -> None:
    """Answer piece by piece, as fast as the caller reads."""
    exchange = forwarding.exchange
    forwarding.first_token = perf_counter() - exchange.started
    encoder = None if reply.passthrough else forwarding.encoder(call)
    content_type = reply.content_type if encoder is None else encoder.content_type
    exchange.begin(200, forwarding.fields(content_type) + _UNCACHED)
    exchange.regulate(reply.pause, reply.resume)
    await reply.relay(forwarding.write, encoder)
    exchange.end()
