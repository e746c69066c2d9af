"""What metrics are made of: families of series that cost a few additions to keep, read and summed up when asked for.

No locks: a family belongs to one event loop. Nothing here knows Prometheus or other processes.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

Read = Callable[[], Iterable[tuple[tuple[str, ...], float]]]
"""Gives the values of a family when it is read: the label values of each series, and its value."""


class Kind(StrEnum):
    """What the values of a family are."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(StrEnum):
    """What a family is over several worker processes. Counters and histograms are sums unless all share one."""

    SUM = "sum"
    LEAST = "least"  # the cautious answer: the oldest version, whether all of them are well
    SAME = "same"  # every worker speaks for all: its own word, and others' on what it does not know of


class Series(msgspec.Struct):
    """The values of one combination of labels.

    `value` is the value of a counter or gauge, or the sum of a histogram; `counts` are the histogram's buckets, each
    without those below it, the last for what is above every bound. `created` is in seconds since the epoch.
    """

    labels: tuple[str, ...] = ()
    value: float = 0.0
    created: float = 0.0
    counts: list[int] = []

    def inc(self, amount: float = 1.0) -> None:
        """Add to a counter or gauge."""
        self.value += amount

    def add(self, other: "Series") -> None:
        """Add the values of another process, or another time; its buckets must be the same."""
        self.value += other.value
        self.created = min(self.created, other.created)
        for position, count in enumerate(other.counts):
            self.counts[position] += count


class Family:
    """A metric: its name, what it means, and its series by the values of its labels.

    With `read` its series are asked for when the metrics are: pairs of label values and value. Without it whoever
    counts takes a series with `at`, once, and adds to it. A histogram's `bounds` are ascending, and infinity is not
    among them; where it is observed, `counts[bisect_left(bounds, value)] += 1` and `value += value`.
    """

    def __init__(
        self,
        kind: Kind,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        bounds: Sequence[float] = (),
        read: Read | None = None,
        merge: Merge = Merge.SUM,
    ) -> None:
        self.kind = kind
        self.name = name
        self.documentation = documentation
        self.labels = tuple(labels)
        self.bounds = tuple(bounds)
        self.merge = merge
        self._read = read
        self._series: dict[tuple[str, ...], Series] = {}
        self._made = time.time()
        if not labels and read is None:
            self.at()

    def at(self, *labels: str) -> Series:
        """Return the series of these label values, in the order of `labels`; made where there is none."""
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = self._empty(labels)
        return series

    def series(self) -> list[Series]:
        """Return the series as they are now; they go on counting."""
        if self._read is None:
            return list(self._series.values())
        found = {labels: Series(labels, value, self._made) for labels, value in self._read()}
        for labels, before in self._series.items():
            found.setdefault(labels, self._empty(labels)).add(before)
        return list(found.values())

    def restore(self, before: Iterable[Series]) -> None:
        """Go on from what an earlier process counted. Gauges begin anew, and what all share has not ended."""
        if self.kind is Kind.GAUGE or self.merge is not Merge.SUM:
            return
        for series in before:
            if self.suits(series):
                self.at(*series.labels).add(series)

    def suits(self, series: Series) -> bool:
        """Whether a series, of another process and maybe of another release, is one of this family."""
        return len(series.labels) == len(self.labels) and len(series.counts) == self._buckets

    def merged(self, others: Iterable[Iterable[Series]]) -> list[Series]:
        """Return the series of this process and of others as one."""
        total = {one.labels: msgspec.structs.replace(one, counts=one.counts.copy()) for one in self.series()}
        for other in others:
            for series in filter(self.suits, other):
                known = total.get(series.labels)
                if known is None:
                    total[series.labels] = msgspec.structs.replace(series, counts=series.counts.copy())
                elif self.merge is Merge.SUM:
                    known.add(series)
                elif self.merge is Merge.LEAST:
                    known.value = min(known.value, series.value)
        return list(total.values())

    @property
    def _buckets(self) -> int:
        return len(self.bounds) + 1 if self.kind is Kind.HISTOGRAM else 0

    def _empty(self, labels: tuple[str, ...]) -> Series:
        return Series(labels, created=time.time(), counts=[0] * self._buckets)


Published = Mapping[str, Sequence[Series]]
"""The series of a process by the names of their families."""
