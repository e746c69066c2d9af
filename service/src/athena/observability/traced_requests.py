"""The spans of the requests to a FastAPI application, named after OpenTelemetry's conventions for HTTP."""

from typing import TYPE_CHECKING

import structlog
from fastapi.telemetry import TelemetryConfig
from starlette.types import ASGIApp, Receive, Scope, Send

from athena.observability import identity, tracing
from athena.observability.answers import ASKED_ALL_THE_TIME, FAILED, Answer

if TYPE_CHECKING:
    from athena.observability.otel import Traces

NOT_FASTAPIS: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""For `FastAPI(telemetry=…)`: what it tells by itself would double what is told here, and its logs are not redacted."""


class TracedRequests:
    """An ASGI application around another one, whose requests it traces; `trace_id` is in every log line about them.

    It stands within what gives the request its id.
    """

    def __init__(self, app: ASGIApp, traces: "Traces") -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and end its span at its end, however that comes."""
        if scope["type"] != "http" or scope["path"] in ASKED_ALL_THE_TIME:
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        attributes = {
            "http.request.method": method,
            "url.path": scope["path"],
            "athena.request.id": identity.current(),
        }
        span = self._traces.serve(method, dict(scope["headers"]), attributes)
        tracing.current.set(span)
        structlog.contextvars.bind_contextvars(trace_id=span.trace_id)
        answer = Answer()
        try:
            await answer.of(self._app, scope, receive, send)
        finally:
            if answer.route:
                span.rename(f"{method} {answer.route}")
                span.set({"http.route": answer.route})
            span.set({"http.response.status_code": answer.status})
            span.end(str(answer.status) if answer.status >= FAILED else "")
