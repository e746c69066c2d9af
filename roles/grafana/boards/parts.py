"""What our dashboards are made of: a few kinds of panels, one look, and what all of them share."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import common as looks
from grafana_foundation_sdk.builders import dashboard as boards
from grafana_foundation_sdk.builders import logs, loki, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard, units
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

BYTES, CELSIUS, PERCENT, RATE, SECONDS, SHARE = (
    units.BytesIEC,
    units.Celsius,
    units.Percent,
    "suffix:/s",
    units.Seconds,
    units.PercentUnit,
)
NUMBER = units.Short
AGE = "dtdurations"  # Grafana's name of a duration that is told in days and hours
WIDTH = 24
PANEL_HEIGHT, FIGURE_HEIGHT, LOGS_HEIGHT = 8, 4, 12

METRICS = dashboard.DataSourceRef(type_val="prometheus", uid="${metrics}")
LINES = dashboard.DataSourceRef(type_val="loki", uid="${logs}")

Panel = Builder[dashboard.Panel]
Query = tuple[str, str]
"""An expression, and how its series are called."""

RELEASES = {
    "name": "Releases",
    "datasource": {"type": "prometheus", "uid": "${metrics}"},
    "builtIn": 0,
    "enable": True,
    "hide": False,
    "iconColor": "purple",
    # One line at the time that the value says, not where the series is.
    "expr": "max by (release) (athena_release_timestamp_seconds"
    " * on (instance) group_left (release) athena_release_info) * 1000",
    "useValueForTime": True,
    "titleFormat": "Release {{release}}",
    "step": "60s",
}
"""A line on each graph where a release began. The SDK has no fields for how Prometheus' values become times."""


_Look = TypeVar("_Look", timeseries.Panel, stat.Panel, table.Panel)


def graph(title: str, unit: str, *queries: Query, span: int = 8, stacked: bool = False, note: str = "") -> Panel:
    """Return values over time; `stacked` shows them as shares of their sum."""
    panel = _asking(timeseries.Panel(), queries).title(title).description(note).unit(unit)
    legend = looks.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST)
    legend = legend.placement(common.LegendPlacement.BOTTOM).show_legend(show_legend=True)
    panel = panel.legend(legend).line_width(1).fill_opacity(70 if stacked else 5).height(PANEL_HEIGHT).span(span)
    if stacked:
        panel = panel.stacking(looks.StackingConfig().mode(common.StackingMode.PERCENT))
    return panel.min(0)


def figure(title: str, unit: str, *queries: Query, span: int = 4, good_above: float | None = None) -> Panel:
    """Return the last value, large; below `good_above` it is red."""
    panel = _asking(stat.Panel(), queries).title(title).unit(unit).height(FIGURE_HEIGHT).span(span)
    calculation = looks.ReduceDataOptions().calcs(["lastNotNull"])
    panel = panel.reduce_options(calculation).graph_mode(common.BigValueGraphMode.NONE)
    if good_above is None:
        return panel.color_mode(common.BigValueColorMode.NONE)
    steps = [dashboard.Threshold(None, "red"), dashboard.Threshold(good_above, "green")]
    return panel.thresholds(boards.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps))


def names(title: str, expression: str, name: str, *, span: int = 4) -> Panel:
    """Return what series are called, for those that are 1 and tell by their labels alone."""
    panel = _asking(stat.Panel(), [(expression, name)]).title(title).height(FIGURE_HEIGHT).span(span)
    return panel.text_mode(common.BigValueTextMode.NAME).color_mode(common.BigValueColorMode.NONE)


def rows(title: str, expression: str, *, unit: str = NUMBER, span: int = 12) -> Panel:
    """Return a table of series as they are now, a column for each label."""
    query = prometheus.Dataquery().expr(expression).instant().format(PromQueryFormat.TABLE).ref_id("A")
    panel = table.Panel().datasource(METRICS).with_target(query).title(title).unit(unit)
    return panel.height(PANEL_HEIGHT).span(span)


def lines(title: str, expression: str, *, note: str = "", span: int = 24) -> Panel:
    """Return lines of logs, the newest first."""
    panel = logs.Panel().datasource(LINES).with_target(loki.Dataquery().expr(expression).ref_id("A")).title(title)
    panel = panel.description(note).sort_order(common.LogsSortOrder.DESCENDING).show_time(show_time=True)
    return (
        panel.wrap_log_message(wrap_log_message=True)
        .enable_log_details(enable_log_details=True)
        .height(LOGS_HEIGHT)
        .span(span)
    )


def counted_lines(title: str, expression: str, name: str, *, span: int = 12) -> Panel:
    """Return how many lines there are over time."""
    query = loki.Dataquery().expr(expression).legend_format(name).ref_id("A")
    panel = timeseries.Panel().datasource(LINES).with_target(query).title(title).unit(NUMBER)
    return panel.fill_opacity(5).min(0).height(PANEL_HEIGHT).span(span)


def choice(name: str, label: str, query: str, pattern: str = "") -> Builder[dashboard.VariableModel]:
    """Return a variable whose values Prometheus knows: any of them, at first all."""
    variable = boards.QueryVariable(name).label(label).datasource(METRICS).query({"query": query, "refId": name})
    variable = variable.multi(multi=True).include_all(include_all=True).all_value(".*").regex(pattern)
    variable = variable.current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
    return variable.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        dashboard.VariableSort.ALPHABETICAL_ASC
    )


def text(name: str, label: str) -> Builder[dashboard.VariableModel]:
    """Return a variable that is typed in."""
    return boards.TextBoxVariable(name).label(label)


def board(
    uid: str,
    title: str,
    variables: Sequence[Builder[dashboard.VariableModel]],
    sections: Sequence[tuple[str, Sequence[Panel]]],
) -> str:
    """Return a dashboard as Grafana reads it from a file."""
    built = boards.Dashboard(title).uid(uid).tags(["athena"]).readonly().timezone("browser").time("now-6h", "now")
    built = built.refresh("30s").tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    others = boards.DashboardLink("Athena").type(dashboard.DashboardLinkType.DASHBOARDS).tags(["athena"])
    built = built.link(others.keep_time(keep_time=True).include_vars(include_vars=True))
    built = built.with_variable(boards.DatasourceVariable("metrics").label("Metrics").type("prometheus"))
    built = built.with_variable(boards.DatasourceVariable("logs").label("Logs").type("loki"))
    for variable in variables:
        built = built.with_variable(variable)
    for panel in _placed(sections):
        built = built.with_row(panel) if isinstance(panel, boards.Row) else built.with_panel(panel)
    content: dict[str, Any] = json.loads(json.dumps(built.build(), cls=JSONEncoder))
    content["annotations"] = {"list": [RELEASES]}
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _placed(sections: Sequence[tuple[str, Sequence[Panel]]]) -> Iterator[boards.Row | Panel]:
    """Yield rows and panels, each with its place: from left to right, and below where one does not fit any more.

    The SDK's own placing lets a panel go beyond the right edge.
    """
    top = 0
    for name, panels in sections:
        yield boards.Row(name).grid_pos(dashboard.GridPos(h=1, w=WIDTH, x=0, y=top))
        left, top, height = 0, top + 1, 0
        for panel in panels:
            place = panel.build().grid_pos or dashboard.GridPos()
            if left + place.w > WIDTH:
                left, top, height = 0, top + height, 0
            place.x, place.y = left, top
            left, height = left + place.w, max(height, place.h)
            yield panel
        top += height


def _asking(panel: _Look, queries: Sequence[Query]) -> _Look:
    panel = panel.datasource(METRICS)
    for position, (expression, name) in enumerate(queries):
        query = prometheus.Dataquery().expr(expression).legend_format(name).range().ref_id("ABCDEFGH"[position])
        panel = panel.with_target(query)
    return panel
