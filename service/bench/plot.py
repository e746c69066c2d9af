"""Draw the saved figures and put them, and the saved profile, into the docs."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench import hotspots, loads, run
from bench.peers import REPOSITORY
from bench.table import rows

PAGE = REPOSITORY / "docs/performance.md"
PICTURE = REPOSITORY / "docs/performance.svg"
# load, figure, heading; whether more is better
PANELS = (
    ("whole", "cpu", "processor time for a request, µs (less is better)", False),
    ("whole", "rate", "requests a second on one core (more is better)", True),
    ("stream", "rate", "chunks a second on one core (more is better)", True),
    ("first", "added_p50", "delay of a stream's first chunk, ms (less is better)", False),
)
_WIDTH, _NAMES, _BARS, _LINE, _GAP = 760, 130, 520, 20, 34
_INK, _OURS, _OTHERS = "#222", "#d9480f", "#8fa3b5"


def main() -> None:
    """Write the picture and the tables of the docs."""
    parser = argparse.ArgumentParser(prog="service/bench/plot", description=__doc__)
    parser.add_argument("--figures", type=Path, default=run.SAVED, help="what service/bench/run saved (%(default)s)")
    parser.add_argument("--profile", type=Path, default=hotspots.SAVED, help="what service/bench/profile saved")
    options = parser.parse_args()
    try:
        figures = json.loads(options.figures.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SystemExit(f"{options.figures} is missing: service/bench/run saves it") from None
    if absent := [load.name for load in loads.ALL if load.name not in figures["loads"]]:
        raise SystemExit(
            f"{options.figures} has no figures of {', '.join(absent)}, whose tables the page would lose: measure all"
            " loads by service/bench/run without --load, or name the file of such a run with --figures"
        )
    PICTURE.write_text(picture(figures["loads"]), encoding="utf-8")
    sections = {"figures": tables(figures)}
    if options.profile.exists():
        sections["profile"] = profiles(json.loads(options.profile.read_text(encoding="utf-8")))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), sections), encoding="utf-8")
    print(f"{PICTURE}\n{PAGE}")


def picture(measured: Mapping[str, Mapping[str, loads.Figures]]) -> str:
    """Return an SVG with a panel of bars for each main figure, on logarithmic scales: they span four decades."""
    drawn: list[str] = []
    height = 10
    for load, figure, heading, more in PANELS:
        found = {
            name: row[figure]
            for name, row in measured.get(load, {}).items()
            if name != run.STRAIGHT and row.get(figure, 0.0) > 0
        }
        if found:
            ordered = sorted(found.items(), key=lambda item: item[1], reverse=more)
            drawn += _panel(heading, ordered, height)
            height += _GAP + _LINE * len(ordered)
    size = f'viewBox="0 0 {_WIDTH} {height + 10}" width="{_WIDTH}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    paper = f'<rect width="100%" height="100%" fill="#fff"/><g fill="{_INK}">'
    return "\n".join([head, paper, *drawn, "</g></svg>\n"])


def _panel(heading: str, bars: Sequence[tuple[str, float]], top: int) -> list[str]:
    values = [value for _, value in bars]
    low = 10.0 ** math.floor(math.log10(min(values)) - 0.3)
    span = max(1.0, math.log10(max(values) / low))
    lines = [f'<text x="10" y="{top + 16}" font-weight="bold">{escape(heading)}, logarithmic</text>']
    for number, (name, value) in enumerate(bars):
        y = top + 24 + number * _LINE
        length = _BARS * math.log10(value / low) / span
        colour = _OURS if "athena" in name else _OTHERS
        lines += [
            f'<text x="{_NAMES - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_NAMES}" y="{y}" width="{length:.0f}" height="{_LINE - 4}" fill="{colour}"/>',
            f'<text x="{_NAMES + length + 6:.0f}" y="{y + 12}">{_number(value)}</text>',
        ]
    return lines


def _number(value: float) -> str:
    """Three digits that count, thousands apart."""
    if value >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.3g}"


def tables(figures: Mapping[str, Any]) -> str:
    """Return the tables of all loads as Markdown, and under what they were taken."""
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items() if "athena" not in name)
    parts = [f"Taken on {figures['date']}: {figures['machine']}. {versions}."]
    if figures["missing"]:
        parts.append("Not measured: " + "; ".join(f"{name} ({why})" for name, why in figures["missing"].items()) + ".")
    for load in loads.ALL:
        if figures["loads"].get(load.name):
            table = rows(load, figures["loads"][load.name])
            parts.append(f"**{load.title[0].upper()}{load.title[1:]}**\n\n{_markdown(table)}")
    return "\n\n".join(parts)


def profiles(found: Mapping[str, Any]) -> str:
    """Return the profile's tables as Markdown."""
    parts = [f"Taken on {found['date']}: {found['machine']}."]
    for profile in found["profiles"]:
        cost = profile["cpu"]
        parts.append(f"**{profile['name']}**: {cost:.1f} µs of the processor for each {profile['unit']}")
        for heading, kind in (("kind of code", "kinds"), ("function", "functions")):
            if kind not in profile:
                continue
            table = [["share", "µs", heading]]
            table += [[f"{share:.1%}", f"{share * cost:.2f}", f"{what}"] for what, share in profile[kind].items()]
            parts.append(_markdown(table, words=2))
    return "\n\n".join(parts)


def _markdown(table: Sequence[Sequence[str]], words: int = 0) -> str:
    """Lay out a table whose first row is its heading; one column holds words, the others numbers."""
    rules = ["---" if number == words else "---:" for number in range(len(table[0]))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [table[0], rules, *table[1:]])


def filled(page: str, sections: Mapping[str, str]) -> str:
    """Return the page with each section's text between its two marks. Raises ValueError where there are none."""
    for name, text in sections.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found and found_end):
            raise ValueError(f"the page has no place for the {name}: {begin} … {end}")
        page = f"{before}{begin}\n\n{text}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    main()
