"""The metrics of the model proxy: its replies, what its router counts, and what its HTTP server sees."""

from collections.abc import Callable, Mapping

from athena.observability.families import Family, Kind, Merge, Series
from athena.observability.gen_ai_metrics import GenAiMetrics
from athena.observability.router_metrics import RouterMetrics
from athena.observability.service_metrics import ServiceMetrics
from athena.observability.sharing import SharedMetrics


class ProxyMetrics(ServiceMetrics):
    """The metrics of one proxy. Requests for a reply are counted in `replies`, what the router counts by itself in
    `router`; `active` are the requests that are being served.
    """

    def __init__(self, shared: SharedMetrics | None = None) -> None:
        super().__init__("proxy", shared)
        self.replies = GenAiMetrics()
        self.router = RouterMetrics()
        active = Family(Kind.GAUGE, "http_server_active_requests", "Requests for a reply that are being served.")
        callers = Family(
            Kind.COUNTER,
            "athena_caller_left",
            "Callers that left before their reply was whole; the engine was stopped.",
        )
        unread = Family(
            Kind.COUNTER, "athena_unread_streams", "Streams that were cut because their caller did not read."
        )
        self.active: Series = active.at()
        self._callers = callers.at()
        self._unread = unread.at()
        self.add(*self.replies.families, active, callers, unread, *self.router.families)

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Name what tells how many connections of callers are open; it is called when the metrics are read."""
        self.gauge("athena_connections", "Connections of callers that are open.", count, Merge.SUM)

    def watch_refusals(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Name what tells, by error code, how often the HTTP server itself refused a caller or broke off with it."""
        self.add(
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
