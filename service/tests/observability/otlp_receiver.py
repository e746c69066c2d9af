"""A receiver of OTLP over HTTP, for tests: it reads what it is sent by OpenTelemetry's own messages."""

import gzip
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

KINDS = {1: "internal", 2: "server", 3: "client"}


class ReceivedSpan:
    """One span: its `service`, ids in hexadecimal, `parent` empty for none, and whether its status is an error."""

    def __init__(self, service: str, span: Any) -> None:
        self.service = service
        self.name: str = span.name
        self.kind = KINDS[span.kind]
        self.trace: str = span.trace_id.hex()
        self.id: str = span.span_id.hex()
        self.parent: str = span.parent_span_id.hex()
        self.failed = span.status.code == 2
        self.told: str = span.status.message
        self.attributes = {pair.key: _value(pair.value) for pair in span.attributes}
        self.seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a sender may leave before it is answered."""


class Receiver:
    """Listens in threads of its own; `status` other than 200 is what it answers, after `delay` seconds."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.status = 200
        self.delay = 0.0
        self.spans: list[ReceivedSpan] = []
        self.bodies: list[bytes] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = _Server((address, 0), Handler)
        self.url = f"http://{address}:{self._server.server_address[1]}"

    def take(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one batch."""
        body = request.rfile.read(int(request.headers["content-length"]))
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        time.sleep(self.delay)
        if self.status == 200 and request.path == "/v1/traces":
            message = ExportTraceServiceRequest.FromString(body)
            self.bodies.append(body)
            for group in message.resource_spans:
                told = {pair.key: _value(pair.value) for pair in group.resource.attributes}
                for scope in group.scope_spans:
                    self.spans += [ReceivedSpan(told["service.name"], span) for span in scope.spans]
        answer = ExportTraceServiceResponse().SerializeToString()
        request.send_response(self.status if request.path == "/v1/traces" else 404)
        request.send_header("content-type", "application/x-protobuf")
        request.send_header("content-length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)

    def until(self, holds: Callable[[ReceivedSpan], bool], count: int = 1, within: float = 20.0) -> list[ReceivedSpan]:
        """Return the spans of which something holds, once there are so many."""
        deadline = time.monotonic() + within
        while len(found := [span for span in self.spans if holds(span)]) < count:
            assert time.monotonic() < deadline, [(span.name, span.attributes) for span in self.spans]
            time.sleep(0.02)
        return found

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
