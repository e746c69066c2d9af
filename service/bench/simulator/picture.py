"""The plot of a comparison: a panel for each fleet and trace, a pair of bars for each policy."""

from collections.abc import Mapping
from html import escape

from bench.simulator.report import Figures

_WIDTH, _NAMES, _BARS, _LINE, _GAP = 760, 130, 540, 18, 40
_INK, _SIMPLE, _JUDGED, _BOUND = "#222", "#8fa3b5", "#d9480f", "#2b8a3e"
JUDGED, BOUND = ("default", "measured", "warm"), "greedy oracle"


def picture(found: Mapping[str, Mapping[str, Figures]]) -> str:
    """Return an SVG: for each panel, by its heading, the seconds until the end of a reply that 95 % do not exceed.

    The thin line goes on to those that 99 % do not exceed. Each panel has a scale of its own.
    """
    drawn: list[str] = []
    height = 10
    for heading, policies in found.items():
        drawn += _panel(heading, policies, height)
        height += _GAP + _LINE * len(policies)
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    paper = f'<rect width="100%" height="100%" fill="#fff"/><g fill="{_INK}">'
    return "\n".join([head, paper, *drawn, "</g></svg>\n"])


def _panel(heading: str, policies: Mapping[str, Figures], top: int) -> list[str]:
    longest = max(one.whole[2] for one in policies.values())
    lines = [
        f'<text x="10" y="{top + 16}" font-weight="bold">{escape(heading)}: whole reply, p95 (line: p99), s</text>'
    ]
    for number, (name, one) in enumerate(policies.items()):
        y = top + 24 + number * _LINE
        _, p95, p99 = (_BARS * seconds / longest for seconds in one.whole)
        colour = _JUDGED if name in JUDGED else _BOUND if name == BOUND else _SIMPLE
        lines += [
            f'<text x="{_NAMES - 8}" y="{y + 11}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_NAMES}" y="{y}" width="{p95:.0f}" height="{_LINE - 5}" fill="{colour}"/>',
            f'<rect x="{_NAMES + p95:.0f}" y="{y + 5}" width="{p99 - p95:.0f}" height="2" fill="{colour}"/>',
            f'<text x="{_NAMES + p99 + 6:.0f}" y="{y + 11}">{one.whole[1]:.0f}</text>',
        ]
    return lines
