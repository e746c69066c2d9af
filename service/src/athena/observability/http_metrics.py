"""How long the requests to a FastAPI application took, named after OpenTelemetry's conventions for HTTP."""

from bisect import bisect_left
from time import perf_counter

from starlette.types import ASGIApp, Receive, Scope, Send

from athena.observability.answers import Answer
from athena.observability.families import Family, Kind

# As the conventions advise.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
OTHER_METHOD = "_OTHER"


class HttpMetrics:
    """The durations by method, route and status."""

    def __init__(self) -> None:
        self.duration = Family(
            Kind.HISTOGRAM,
            "http_server_request_duration_seconds",
            "Time from a request's arrival to the end of its answer.",
            ("http_request_method", "http_route", "http_response_status_code"),
            bounds=_BUCKETS,
        )

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; `route` is the template that it met."""
        series = self.duration.at(method if method in _METHODS else OTHER_METHOD, route, str(status))
        series.counts[bisect_left(_BUCKETS, seconds)] += 1
        series.value += seconds


class MeasuredRequests:
    """An ASGI application around another one, whose requests it measures."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it at its end, however that comes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, answer = perf_counter(), Answer()
        try:
            await answer.of(self._app, scope, receive, send)
        finally:
            self._metrics.record(scope["method"], answer.route, answer.status, perf_counter() - began)
