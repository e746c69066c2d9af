"""What the router counts besides requests. Nothing here needs Prometheus: the router counts as a library as well."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from athena.observability.families import Family, Kind, Merge, Series

BACKEND_STATES = ("closed", "open", "half_open")
OTHER_REASON = "other"
OTHER_ARM = "other"
DEFAULT_BACKEND = "default"

_WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_BACKEND_LABELS = ("backend_id", "model", "provider")
_MOST_REASONS = 32
_MOST_ARMS = 256  # of all models together
_FIRST_TOKEN_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class BackendReading(msgspec.Struct, frozen=True):
    """One engine at one moment, over all worker processes.

    `backend_id` is DEFAULT_BACKEND for the default Ollama; `state` is one of BACKEND_STATES; `in_use` requests of at
    most `limit` are with it, `queued` wait for it; its breaker has opened `trips` times.
    """

    backend_id: str
    model: str
    provider: str
    state: str
    in_use: int
    limit: int
    queued: int
    trips: int


class _Arm(NamedTuple):
    whole: Series
    failed: Series
    times: Series


class RouterMetrics:
    """Counts what happens to requests on their way; each method costs a fraction of a microsecond."""

    def __init__(self) -> None:
        self._wait = Family(
            Kind.HISTOGRAM,
            "athena_queue_wait_seconds",
            "Time that a request waited in the queue of its backend before it was given to the engine or turned away.",
            bounds=_WAIT_BUCKETS,
        )
        self._moved = Family(
            Kind.COUNTER,
            "athena_requests_moved",
            "Requests that went on to the next backend of their route before their first byte, by what was wrong.",
            ("reason",),
        )
        self._failed = Family(
            Kind.COUNTER,
            "athena_backend_failures",
            "Replies that a backend was asked for and did not give whole, whether or not another one gave it.",
            (*_BACKEND_LABELS, "reason"),
        )
        self._stalled = Family(
            Kind.COUNTER,
            "athena_stalled_streams",
            "Streams that were cut because their engine wrote nothing for longer than its backend allows.",
        )
        self._arms = Family(
            Kind.COUNTER,
            "athena_arm_replies",
            "Replies that the backends of an arm were asked for, by whether they came whole.",
            ("model", "arm", "outcome"),
        )
        self._arm_times = Family(
            Kind.HISTOGRAM,
            "athena_arm_first_token_seconds",
            "Time until the first token of a reply of an arm's backends.",
            ("model", "arm"),
            bounds=_FIRST_TOKEN_BUCKETS,
        )
        self._known_arms: dict[tuple[str, str], _Arm] = {}
        self._waits = self._wait.at()
        self._stalls = self._stalled.at()
        self._reasons: dict[str, Series] = {}
        self._read_backends: Callable[[], Iterable[BackendReading]] = tuple
        self._read_configuration: Callable[[], tuple[int, bool]] | None = None
        self.families = (
            *(self._wait, self._moved, self._failed, self._stalled, self._arms, self._arm_times),
            *self._of_backends(),
            *self._of_configuration(),
        )

    def waited(self, seconds: float) -> None:
        """Note how long a request waited in a queue; not for one that did not have to."""
        self._waits.counts[bisect_left(_WAIT_BUCKETS, seconds)] += 1
        self._waits.value += seconds

    def moved(self, reason: str) -> None:
        """Count a request that goes on to the next backend; `reason` is one of few words, such as a FailureKind."""
        series = self._reasons.get(reason)
        if series is None:
            name = str(reason) if len(self._reasons) < _MOST_REASONS else OTHER_REASON
            series = self._moved.at(name)
            if name != OTHER_REASON:
                self._reasons[reason] = series
        series.value += 1

    def failed(self, backend_id: int | None, model: str, provider: str, reason: str) -> None:
        """Count a reply that a backend failed to give; `model` is one of the registry's, or stands for all others."""
        name = DEFAULT_BACKEND if backend_id is None else str(backend_id)
        self._failed.at(name, model, provider, reason).inc()

    def stalled(self) -> None:
        """Count a stream that was cut because its engine stopped writing."""
        self._stalls.value += 1

    def arm_answered(self, model: str, arm: str, first_token: float | None) -> None:
        """Count a whole reply of an arm of the registry's, with the seconds to its first token where they are known."""
        series = self._arm(model, arm)
        series.whole.value += 1
        if first_token is not None:
            series.times.counts[bisect_left(_FIRST_TOKEN_BUCKETS, first_token)] += 1
            series.times.value += first_token

    def arm_failed(self, model: str, arm: str) -> None:
        """Count a reply that an arm's backend failed to give."""
        self._arm(model, arm).failed.value += 1

    def _arm(self, model: str, arm: str) -> "_Arm":
        found = self._known_arms.get((model, arm))
        if found is None:
            # The registry may have named others before, without end.
            names = (model, arm) if len(self._known_arms) < _MOST_ARMS else (OTHER_ARM, OTHER_ARM)
            found = _Arm(self._arms.at(*names, "whole"), self._arms.at(*names, "failed"), self._arm_times.at(*names))
            if names[0] != OTHER_ARM:
                self._known_arms[model, arm] = found
        return found

    def watch_backends(self, read: Callable[[], Iterable[BackendReading]]) -> None:
        """Name what tells the state of every backend; it is called when the metrics are read."""
        self._read_backends = read

    def watch_configuration(self, read: Callable[[], tuple[int, bool]]) -> None:
        """Name what tells the registry's version, and whether it is reachable; called when the metrics are read."""
        self._read_configuration = read

    def _of_configuration(self) -> Iterator[Family]:
        for position, name, documentation in (
            (0, "athena_configuration_version", "Version of the registry that requests are routed by."),
            (1, "athena_configuration_reachable", "Whether the last contact with the Admin API succeeded."),
        ):
            yield Family(Kind.GAUGE, name, documentation, read=self._known(position), merge=Merge.LEAST)

    def _known(self, position: int) -> Callable[[], Iterator[tuple[tuple[str, ...], float]]]:
        def read() -> Iterator[tuple[tuple[str, ...], float]]:
            if self._read_configuration is not None:
                yield (), float(self._read_configuration()[position])

        return read

    def _of_backends(self) -> Iterator[Family]:
        yield Family(
            Kind.GAUGE,
            "athena_backend_state",
            "1 for the state of the backend's breaker, 0 for the others.",
            (*_BACKEND_LABELS, "state"),
            read=lambda: (
                ((one.backend_id, one.model, one.provider, state), float(one.state == state))
                for one in self._read_backends()
                for state in BACKEND_STATES
            ),
            merge=Merge.SAME,
        )
        for kind, name, documentation, value in (
            (Kind.GAUGE, "athena_backend_in_use", "Requests that the backend is serving.", _in_use),
            (Kind.GAUGE, "athena_backend_limit", "Requests that the backend may serve at once.", _limit),
            (Kind.GAUGE, "athena_backend_queued", "Requests that wait for the backend.", _queued),
            (Kind.COUNTER, "athena_backend_trips", "How often the backend's breaker opened.", _trips),
        ):
            yield Family(kind, name, documentation, _BACKEND_LABELS, read=self._each(value), merge=Merge.SAME)

    def _each(self, value: Callable[[BackendReading], int]) -> Callable[[], Iterator[tuple[tuple[str, ...], float]]]:
        return lambda: (((one.backend_id, one.model, one.provider), float(value(one))) for one in self._read_backends())


def _in_use(reading: BackendReading) -> int:
    return reading.in_use


def _limit(reading: BackendReading) -> int:
    return reading.limit


def _queued(reading: BackendReading) -> int:
    return reading.queued


def _trips(reading: BackendReading) -> int:
    return reading.trips
