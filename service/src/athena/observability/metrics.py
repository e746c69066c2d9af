"""Metrics of the model proxy, named after OpenTelemetry's conventions for generative AI, in Prometheus' spelling.

Labels have few values: a model is named only if the registry knows it, an error by its class.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Self

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from athena.errors import AthenaError
from athena.observability import logs
from athena.observability.exposition import text_of, text_of_process
from athena.observability.families import Family, Kind, Merge, Published, Series
from athena.observability.router_metrics import RouterMetrics
from athena.observability.sharing import SharedMetrics
from athena.router.types import Usage

_DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_LABELS = ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_provider_name")

OTHER_MODEL = "other"
OTHER_ERROR = "other"
NO_PROVIDER = "none"
CALLER_LEFT = "cancelled"
SHUTDOWN = "shutdown"
CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Counts:
    """The series of one (operation, model, engine, outcome), looked up once."""

    __slots__ = ("duration", "first_token", "input_tokens", "output_tokens", "per_token", "requests")

    def __init__(self, metrics: "ProxyMetrics", labels: tuple[str, str, str], error_type: str) -> None:
        self.requests = metrics.requests.at(*labels, error_type)
        self.duration = metrics.duration.at(*labels, error_type)
        self.first_token = metrics.first_token.at(*labels)
        self.per_token = metrics.per_token.at(*labels)
        self.input_tokens = metrics.tokens.at(*labels, "input")
        self.output_tokens = metrics.tokens.at(*labels, "output")


class ProxyMetrics:
    """The metrics of one proxy.

    What the router counts by itself is in `router`. With several workers, `shared` holds those of the others: the
    metrics are published while this object is entered as an async context manager, and whenever they are read, so that
    no counter that anybody has seen goes backwards when its worker dies.
    """

    def __init__(self, shared: SharedMetrics | None = None) -> None:
        self.router = RouterMetrics()
        self.requests = Family(
            Kind.COUNTER,
            "gen_ai_server_requests",
            "Requests for a reply; error_type is empty where the caller got the whole of it.",
            (*_LABELS, "error_type"),
        )
        self.duration = Family(
            Kind.HISTOGRAM,
            "gen_ai_server_request_duration_seconds",
            "Time from a request's arrival to the end of its reply.",
            (*_LABELS, "error_type"),
            bounds=_DURATION_BUCKETS,
        )
        self.first_token = Family(
            Kind.HISTOGRAM,
            "gen_ai_server_time_to_first_token_seconds",
            "Time from a request's arrival to the first token of its stream.",
            _LABELS,
            bounds=_FIRST_TOKEN_BUCKETS,
        )
        self.per_token = Family(
            Kind.HISTOGRAM,
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between the tokens of a stream, after the first.",
            _LABELS,
            bounds=_PER_TOKEN_BUCKETS,
        )
        self.tokens = Family(
            Kind.COUNTER,
            "gen_ai_client_token_usage",
            "Tokens read (input) and written (output), as the engines counted them.",
            (*_LABELS, "gen_ai_token_type"),
        )
        active = Family(Kind.GAUGE, "http_server_active_requests", "Requests for a reply that are being served.")
        callers = Family(
            Kind.COUNTER,
            "athena_caller_left",
            "Callers that left before their reply was whole; the engine was stopped.",
        )
        unread = Family(
            Kind.COUNTER, "athena_unread_streams", "Streams that were cut because their caller did not read."
        )
        dropped = Family(
            Kind.COUNTER,
            "athena_log_lines_dropped",
            "Log lines that were lost because nobody read the log.",
            read=lambda: [((), float(logs.dropped_lines()))],
        )
        self.active: Series = active.at()
        self._callers = callers.at()
        self._unread = unread.at()
        self._counts: dict[tuple[str, str, str, str], _Counts] = {}
        self._shared = shared if shared is not None and not shared.alone else None
        self._restored = {} if self._shared is None else self._shared.restored()
        self._families: dict[str, Family] = {}
        self._publishing: asyncio.Task[None] | None = None
        own = (self.requests, self.duration, self.first_token, self.per_token, self.tokens, active)
        for family in (*own, callers, unread, dropped, *self.router.families):
            self._add(family)

    def gauge(self, name: str, documentation: str, value: Callable[[], float], merge: Merge = Merge.LEAST) -> None:
        """Add a gauge whose value is asked for when the metrics are read; `merge` says what it is over all workers."""
        self._add(Family(Kind.GAUGE, name, documentation, read=lambda: [((), float(value()))], merge=merge))

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Name what tells how many connections of callers are open; it is called when the metrics are read."""
        self.gauge("athena_connections", "Connections of callers that are open.", count, Merge.SUM)

    def watch_refusals(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Name what tells, by error code, how often the HTTP server itself refused a caller or broke off with it."""
        self._add(
            Family(
                Kind.COUNTER,
                "athena_refused",
                "Callers that the HTTP server itself refused, or broke off with, by the reason.",
                ("reason",),
                read=lambda: [((reason,), float(count)) for reason, count in read().items()],
            )
        )

    def caller_left(self) -> None:
        """Count a caller that left before its reply was whole."""
        self._callers.value += 1

    def unread_stream(self) -> None:
        """Count a stream that was cut because its caller did not read it."""
        self._unread.value += 1

    def record(
        self,
        operation: str,
        model: str,
        provider: str,
        error_type: str,
        *,
        seconds: float,
        first_token: float | None,
        usage: Usage | None,
    ) -> None:
        """Count one request. `first_token` is the time to it in seconds, None where no stream was given.

        `error_type` is empty, CALLER_LEFT, SHUTDOWN or the `code` of an AthenaError; anything else counts as "other".
        """
        counts = self._counts.get((operation, model, provider, error_type))
        if counts is None:
            counts = self._learn(operation, model, provider, error_type)
        counts.requests.value += 1
        duration = counts.duration
        duration.counts[bisect_left(_DURATION_BUCKETS, seconds)] += 1
        duration.value += seconds
        if first_token is not None:
            first = counts.first_token
            first.counts[bisect_left(_FIRST_TOKEN_BUCKETS, first_token)] += 1
            first.value += first_token
        if usage is not None:
            written = usage.completion_tokens
            counts.input_tokens.value += usage.prompt_tokens
            counts.output_tokens.value += written
            if first_token is not None and written > 1:
                each = (seconds - first_token) / (written - 1)
                per_token = counts.per_token
                per_token.counts[bisect_left(_PER_TOKEN_BUCKETS, each)] += 1
                per_token.value += each

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format, those of the other workers included."""
        self.publish()
        shared = self._shared
        others = [] if shared is None else [worker.series for worker in shared.others()]
        parts = [
            text_of(family, family.merged(other.get(family.name, ()) for other in others))
            for family in self._families.values()
        ]
        return "".join(parts).encode() + text_of_process(shared.processes if shared is not None else None)

    def publish(self, *, last: bool = False) -> None:
        """Let the other workers know this one's metrics; the `last` time without gauges, which end with the process."""
        if self._shared is not None:
            self._shared.publish(*self._published(last=last))

    def _published(self, *, last: bool = False) -> tuple[Published, Published]:
        counted: dict[str, list[Series]] = {}
        gauges: dict[str, list[Series]] = {}
        for family in self._families.values():
            if family.kind is not Kind.GAUGE:
                counted[family.name] = family.series()
            elif not last:
                gauges[family.name] = family.series()
        return counted, gauges

    async def __aenter__(self) -> Self:
        if self._shared is not None:
            publishing = self._publish_for_ever(self._shared)
            self._publishing = asyncio.create_task(publishing, name="athena metrics")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
            self.publish(last=True)

    async def _publish_for_ever(self, shared: SharedMetrics) -> None:
        while True:
            await asyncio.to_thread(shared.write, shared.edition(*self._published()))
            await asyncio.sleep(shared.every)

    def _add(self, family: Family) -> None:
        family.restore(self._restored.get(family.name, ()))
        self._families[family.name] = family

    def _learn(self, operation: str, model: str, provider: str, error_type: str) -> _Counts:
        known = error_type in ("", CALLER_LEFT, SHUTDOWN) or error_type in _codes(AthenaError)
        counts = _Counts(self, (operation, model, provider), error_type if known else OTHER_ERROR)
        if known:
            self._counts[operation, model, provider, error_type] = counts
        return counts


def _codes(kind: type[AthenaError]) -> Iterator[str]:
    """Yield the codes of all errors that there are."""
    yield kind.code
    for special in kind.__subclasses__():
        yield from _codes(special)
