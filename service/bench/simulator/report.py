"""Figures of a run, as tables for a terminal and for the docs."""

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bench.simulator.routing import Outcome
from bench.simulator.traces import FLOODER

HEADING = (
    *("policy", "first p50", "first p95", "first p99", "whole p50", "whole p95", "whole p99"),
    *("loads", "refused", "broken"),
)


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds to the first token and to the end at the 50th, 95th and 99th percentile; loads of models; prompts lost.

    Those of one who floods are left out: what he does to the others is asked.
    """

    first: tuple[float, float, float]
    whole: tuple[float, float, float]
    loads: int
    refused: int
    broken: int


def figures(outcomes: Iterable[Outcome], loads: int) -> Figures:
    """Return the figures of the runs of one policy."""
    counted = [outcome for outcome in outcomes if outcome.ask.tenant != FLOODER]
    return Figures(
        first=_percentiles([outcome.first for outcome in counted if outcome.first is not None]),
        whole=_percentiles([outcome.whole for outcome in counted if outcome.whole is not None]),
        loads=loads,
        refused=sum(outcome.refused and outcome.first is None for outcome in counted),
        broken=sum(outcome.refused and outcome.first is not None for outcome in counted),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not exceeded by that share of them (the nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    return percentile(values, 0.5), percentile(values, 0.95), percentile(values, 0.99)


def table(found: Mapping[str, Figures]) -> list[list[str]]:
    """Return a heading and a row for each policy."""
    return [list(HEADING)] + [
        [
            name,
            *(f"{seconds:.1f}" for seconds in (*one.first, *one.whole)),
            str(one.loads),
            str(one.refused),
            str(one.broken),
        ]
        for name, one in found.items()
    ]


def text(rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table for the docs."""
    rules = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rules, *rows[1:]])
