"""The families of this package, and what the system knows of the process, in Prometheus' text format.

The families are written out here rather than by Prometheus' client library: it takes four times as long, and meanwhile
no stream goes on.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry, Metric, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from athena.observability.families import Family, Kind, Series

_MILLION = 1_000_000
Processes = Iterable[tuple[int, int]]


def text_of(family: Family, series: Sequence[Series]) -> str:
    """Return a family with these series."""
    name = family.name
    shown = f"{name}_total" if family.kind is Kind.COUNTER else name
    lines = _head(shown, family, family.kind)
    labelled = [(one, *_around(family.labels, one.labels)) for one in series]
    bounds = [_number(bound) for bound in (*family.bounds, float("inf"))]
    for one, before, after in labelled:
        if family.kind is Kind.HISTOGRAM:
            lines += _histogram(name, bounds, one, before, after)
        else:
            lines.append(f"{shown}{_braced(before + after)} {_number(one.value)}\n")
    if family.kind is not Kind.GAUGE and series:
        lines += _head(f"{name}_created", family, Kind.GAUGE)
        lines += [
            f"{name}_created{_braced(before + after)} {_number(one.created)}\n" for one, before, after in labelled
        ]
    return "".join(lines)


def text_of_process(workers: Callable[[], Processes] | None = None) -> bytes:
    """Return the memory, time and files of this process, and what Python it runs.

    With `workers`, which gives their indexes and process ids, those of each, labelled `worker`.
    """
    registry = CollectorRegistry()
    PlatformCollector(registry=registry)
    if workers is None:
        ProcessCollector(registry=registry)
    else:
        registry.register(_WorkerProcesses(workers))
    return generate_latest(registry)


class _WorkerProcesses(Collector):
    """The library's metrics of a process, for several."""

    def __init__(self, workers: Callable[[], Processes]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with the samples of all workers."""
        metrics: dict[str, Metric] = {}
        for index, pid in self._workers():
            for found in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                metric = metrics.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    metric.add_sample(sample.name, {"worker": str(index)}, sample.value)
        yield from metrics.values()

    def describe(self) -> list[Metric]:
        """Return nothing: the library would otherwise read all at registration, to look for a name used twice."""
        return []


def _head(name: str, family: Family, kind: Kind) -> list[str]:
    documentation = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
    return [f"# HELP {name} {documentation}\n", f"# TYPE {name} {kind}\n"]


def _histogram(
    name: str, bounds: Sequence[str], series: Series, before: tuple[str, ...], after: tuple[str, ...]
) -> Iterator[str]:
    others = _braced(before + after)
    start = f"{name}_bucket{{" + "".join(f"{pair}," for pair in before) + 'le="'
    end = '"' + "".join(f",{pair}" for pair in after) + "} "
    total = 0
    for bound, total in zip(bounds, accumulate(series.counts), strict=True):
        # The library's form, by a shorter way: most lines of all are these.
        yield f"{start}{bound}{end}{total}.0\n" if total < _MILLION else f"{start}{bound}{end}{_number(total)}\n"
    yield f"{name}_count{others} {_number(total)}\n"
    yield f"{name}_sum{others} {_number(series.value)}\n"


def _around(names: Sequence[str], values: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the labels by name, parted where `le` belongs."""
    pairs = sorted(zip(names, values, strict=True))
    written = [(name, f'{name}="{_escaped(value)}"') for name, value in pairs]
    return tuple(pair for name, pair in written if name < "le"), tuple(pair for name, pair in written if name > "le")


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _braced(pairs: Sequence[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _number(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text
