"""What the dashboards ask, as it is in the files that Grafana reads.

usage: python tests/repository/panels.py prometheus | loki   One JSON object a line: `dashboard`, `panel`, `query`.
The variables of the dashboards are filled in: all models, backends and hosts, and intervals of ten minutes.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

DASHBOARDS = Path(__file__).parents[2] / "roles/grafana/files/dashboards"
# What Grafana puts in the place of its variables, and of ours where all of it is chosen; of a request, one that may be.
FILLED = {
    "$__rate_interval": "10m",
    "$__interval": "10m",
    "$model": ".*",
    "$backend": ".*",
    "$host": ".*",
    "$request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}


class Asked(NamedTuple):
    """A query of a panel; `instant` where it is of one moment."""

    dashboard: str
    panel: str
    source: str
    query: str
    instant: bool


def asked(source: str, **typed: str) -> Iterator[Asked]:
    """Yield the queries of all panels, and of what marks releases, to Prometheus (`prometheus`) or Loki (`loki`).

    `typed` has what somebody gave for a variable in the place of what is filled in else.
    """
    values = FILLED | {f"${name}": value for name, value in typed.items()}
    for file in sorted(DASHBOARDS.glob("*.json")):
        content = json.loads(file.read_text())
        for mark in content["annotations"]["list"]:
            if mark["datasource"]["type"] == source:
                yield Asked(file.stem, f"marks: {mark['name']}", source, filled(mark["expr"], values), instant=False)
        for panel in panels(content):
            for target in panel["targets"]:
                if panel["datasource"]["type"] == source:
                    instant = bool(target.get("instant"))
                    yield Asked(file.stem, panel["title"], source, filled(target["expr"], values), instant)


def panels(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the panels of a dashboard, rows left out."""
    for panel in content["panels"]:
        yield from panel.get("panels", [])
        if panel["type"] != "row":
            yield panel


def filled(query: str, values: Mapping[str, str]) -> str:
    """Return a query as Grafana would send it, with the values of variables."""
    for variable, value in values.items():
        query = query.replace(variable, value)
    return query


if __name__ == "__main__":
    for one in asked(sys.argv[1]):
        print(json.dumps({"dashboard": one.dashboard, "panel": one.panel, "query": one.query}))
