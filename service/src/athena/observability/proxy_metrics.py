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

    def watch_server(
        self,
        *,
        connections: Callable[[], int],
        refusals: Callable[[], Mapping[str, int]],
        tasks: Callable[[], int],
    ) -> None:
        """Name what tells of the HTTP server: the callers' connections that are open, how often it refused a caller or
        broke off with it, by error code, and the tasks of its event loop. Called when the metrics are read.
        """
        self.gauge("athena_connections", "Connections of callers that are open.", connections, Merge.SUM)
        self.add(
            Family(
                Kind.COUNTER,
                "athena_refused",
                "Callers that the HTTP server itself refused, or broke off with, by the reason.",
                ("reason",),
                read=lambda: [((reason,), float(count)) for reason, count in refusals().items()],
            )
        )
        self.gauge(
            "athena_event_loop_tasks",
            "Tasks of the event loops: a few of the proxy's own, and one for each request.",
            tasks,
            Merge.SUM,
        )

    def caller_left(self) -> None:
        """Count a caller that left before its reply was whole."""
        self._callers.value += 1

    def unread_stream(self) -> None:
        """Count a stream that was cut because its caller did not read it."""
        self._unread.value += 1
