"""Spans by OpenTelemetry's SDK, sent by OTLP over HTTP. Imported only where traces are wanted: see `tracing`.

Endpoint, headers, timeout, sampler, batches and resource are the libraries' own affair, by the standard variables.
Nobody waits for the receiver: spans wait in a bounded queue for a thread that sends them, and what finds no room there,
or was not taken, is counted.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from athena import __version__
from athena.observability.gen_ai_metrics import OPERATION_NAMES
from athena.router.call import Call
from athena.router.types import Operation, Target, Usage

LAST_SECONDS = 2.0  # that the end of a process waits for its last spans to be taken
_BATCH = 512
_PROPAGATOR = TraceContextTextMapPropagator()
log = structlog.get_logger()

Attributes = Mapping[str, str | int | float | bool]


class Span:
    """One span that has begun. `end` ends it; whatever comes after that has no effect."""

    __slots__ = ("_ended", "_span", "trace_id")

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        self._ended = False
        self.trace_id = format_trace_id(span.get_span_context().trace_id)

    @property
    def fields(self) -> bytes:
        """The header lines that hand the trace on (W3C), each with its CRLF."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(self._span))
        return "".join(f"{name}: {value}\r\n" for name, value in carrier.items()).encode("latin-1")

    def rename(self, name: str) -> None:
        """Name it anew, once it is known what it was about."""
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        """Note attributes."""
        self._span.set_attributes(attributes)

    def child(self, traces: "Traces", name: str, attributes: Attributes, kind: SpanKind = SpanKind.INTERNAL) -> "Span":
        """Begin a span within this one."""
        return traces.begin(name, kind, attributes, parent=self._span)

    def answered(self, model: str, usage: Usage | None) -> None:
        """Note a model's reply; tokens only where they were counted."""
        self._span.set_attribute("gen_ai.response.model", model)
        if usage is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)

    def end(self, error_type: str = "", *, detail: str = "", fault: bool = True) -> None:
        """End it; `fault`: an error is one of this side. `detail` holds nothing that a caller or an engine said."""
        if self._ended:
            return
        self._ended = True
        if error_type:
            self._span.set_attribute("error.type", error_type)
            if fault:
                self._span.set_status(Status(StatusCode.ERROR, detail or None))
        self._span.end()


class Traces:
    """Makes the spans of one process and sends them."""

    def __init__(self, service: str, *, queue: int) -> None:
        self._exporter = _Exporter(OTLPSpanExporter())
        self._processor = _Processor(self._exporter, queue)
        self._provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("athena", __version__)

    @property
    def dropped(self) -> int:
        """How many spans found no room, or were not taken by the receiver."""
        return self._processor.without_room + self._exporter.refused

    def begin(self, name: str, kind: SpanKind, attributes: Attributes, parent: OtelSpan | None = None) -> Span:
        """Begin a span; without a parent, a trace."""
        context = set_span_in_context(parent) if parent is not None else None
        return Span(self._tracer.start_span(name, context, kind, dict(attributes)))

    def serve(self, name: str, headers: Mapping[bytes, bytes], attributes: Attributes) -> Span:
        """Begin the span of a request that came in, in the trace that its headers name, if they do (W3C)."""
        carrier = {
            name: headers[key].decode("latin-1")
            for name, key in (("traceparent", b"traceparent"), ("tracestate", b"tracestate"))
            if key in headers
        }
        context = _PROPAGATOR.extract(carrier)
        return Span(self._tracer.start_span(name, context, SpanKind.SERVER, dict(attributes)))

    def attempt(self, call: Call, target: Target) -> Span:
        """Begin the span of one attempt at an engine, within the call's own."""
        server = urlsplit(target.endpoint_url)
        attributes: dict[str, str | int] = {
            **asked(call.operation, call.model),
            "gen_ai.provider.name": target.engine.value,
            "server.address": server.hostname or "",
            "server.port": server.port or (443 if server.scheme == "https" else 80),
            "athena.backend.id": "default" if target.backend.id is None else str(target.backend.id),
        }
        name = f"{OPERATION_NAMES[call.operation]} {call.model}"
        if call.span is None:
            return self.begin(name, SpanKind.CLIENT, attributes)
        return call.span.child(self, name, attributes, SpanKind.CLIENT)

    def close(self) -> None:
        """Send what is left; a receiver that does not take it in time is left alone."""
        closing = threading.Thread(target=self._provider.shutdown, name="athena last spans", daemon=True)
        closing.start()
        closing.join(LAST_SECONDS)
        if closing.is_alive():
            self._exporter.shutdown()


def asked(operation: Operation, model: str) -> dict[str, str]:
    """Return the attributes of what is asked of a model."""
    return {"gen_ai.operation.name": OPERATION_NAMES[operation], "gen_ai.request.model": model}


def _resource(service: str) -> Resource:
    """Return who sends: as the standard variables say, and where they say nothing, by the service's name."""
    said = Resource.create({SERVICE_VERSION: __version__})
    if str(said.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return said.merge(Resource({SERVICE_NAME: f"athena-{service}"}))
    return said


class _Processor(BatchSpanProcessor):
    """The SDK's queue and thread, but what finds no room is counted, and not told in a line each."""

    def __init__(self, exporter: "_Exporter", queue: int) -> None:
        self.without_room = 0
        self._sender = exporter
        self._queue = queue
        self._taken = 0
        super().__init__(exporter, max_queue_size=queue, max_export_batch_size=min(_BATCH, queue))

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._taken - self._sender.handed >= self._queue:
            self.without_room += 1
            return
        self._taken += 1
        super().on_end(span)


class _Exporter(SpanExporter):
    """Sends batches, counts what was not taken, and tells of it once, not each time."""

    def __init__(self, exporter: OTLPSpanExporter) -> None:
        self.handed = 0
        self.refused = 0
        self._exporter = exporter
        self._failing = False
        self._reason = _Reason()
        logging.getLogger("opentelemetry.exporter.otlp").addFilter(self._reason)
        logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter").addFilter(self._reason)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.handed += len(spans)
        result = self._exporter.export(spans)
        failing = result is not SpanExportResult.SUCCESS
        if failing:
            self.refused += len(spans)
        if failing is not self._failing:
            self._failing = failing
            if failing:
                log.warning("spans_not_taken", error=self._reason.last, until_mended="spans are dropped and counted")
            else:
                log.info("spans_are_taken")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _Reason(logging.Filter):
    """Keeps what the exporter says of its last failure from being told with every batch."""

    last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.last = record.getMessage()
        return False
