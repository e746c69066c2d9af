"""The metrics of one process: what every service tells, and how its families are read, alone or with other workers'."""

import asyncio
from collections.abc import Callable
from typing import Self

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from athena import __version__
from athena.observability import logs, tracing
from athena.observability.exposition import text_of, text_of_process
from athena.observability.families import Family, Kind, Merge, Published, Read, Series
from athena.observability.sharing import SharedMetrics

CONTENT_TYPE = CONTENT_TYPE_LATEST


class ServiceMetrics:
    """The families of a service; `service` is its name, such as `proxy`.

    With several workers, `shared` holds those of the others: the metrics are published while this object is entered as
    an async context manager, and whenever they are read, so that no counter that anybody has seen goes backwards when
    its worker dies.
    """

    def __init__(self, service: str, shared: SharedMetrics | None = None) -> None:
        self._shared = shared if shared is not None and not shared.alone else None
        self._restored = {} if self._shared is None else self._shared.restored()
        self._families: dict[str, Family] = {}
        self._publishing: asyncio.Task[None] | None = None
        self.add(
            Family(
                Kind.GAUGE,
                "athena_build_info",
                "1; the labels say which service this is, and of which version.",
                ("service", "version"),
                read=lambda: [((service, __version__), 1.0)],
                merge=Merge.LEAST,
            ),
            Family(
                Kind.COUNTER,
                "athena_log_lines_dropped",
                "Log lines that were lost because nobody read the log.",
                read=lambda: [((), float(logs.dropped_lines()))],
            ),
        )
        if tracing.wanted():
            self.add(
                Family(
                    Kind.COUNTER,
                    "athena_spans_dropped",
                    "Spans of traces that were lost because their receiver did not take them.",
                    read=lambda: [((), float(tracing.dropped()))],
                )
            )

    def add(self, *families: Family) -> None:
        """Take in families; each goes on from what the worker in whose place this one stands had counted."""
        for family in families:
            family.restore(self._restored.get(family.name, ()))
            self._families[family.name] = family

    def gauge(self, name: str, documentation: str, value: Callable[[], float], merge: Merge = Merge.LEAST) -> None:
        """Add a gauge whose value is asked for when the metrics are read; `merge` says what it is over all workers."""
        self.gauges(name, documentation, (), lambda: [((), float(value()))], merge)

    def gauges(
        self, name: str, documentation: str, labels: tuple[str, ...], read: Read, merge: Merge = Merge.LEAST
    ) -> None:
        """Add a gauge with labels; `read` gives label values and value of each series."""
        self.add(Family(Kind.GAUGE, name, documentation, labels, read=read, merge=merge))

    @property
    def families(self) -> tuple[Family, ...]:
        """All families, in the order in which they are told."""
        return tuple(self._families.values())

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
