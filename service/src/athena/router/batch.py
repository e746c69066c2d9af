"""Figures on their way to the registry: the sums of a backend, and the batches in which they are reported."""

from collections.abc import Iterable

import msgspec


class Figure(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The sums of one backend since the last batch.

    `times`, `logs` and `squares` are the count, and the sums of the logarithms and of their squares, of the seconds to
    the first token; only of a backend that is compared with others.
    """

    backend_id: int
    requests: int = 0
    errors: int = 0
    latency_ms_sum: float = 0.0
    completion_tokens: int = 0
    completion_seconds: float = 0.0
    times: int = 0
    logs: float = 0.0
    squares: float = 0.0

    def add(self, other: "Figure") -> None:
        """Add the sums of another time of the same backend."""
        self.requests += other.requests
        self.errors += other.errors
        self.latency_ms_sum += other.latency_ms_sum
        self.completion_tokens += other.completion_tokens
        self.completion_seconds += other.completion_seconds
        self.times += other.times
        self.logs += other.logs
        self.squares += other.squares


class Batch(msgspec.Struct, kw_only=True):
    """One report. Its id makes it count once, however often it is sent."""

    batch_id: str
    figures: list[Figure]


def requests_in(batches: Iterable[Batch]) -> int:
    """Return how many requests the batches tell of."""
    return sum(figure.requests for batch in batches for figure in batch.figures)
