"""The dashboards: what is committed is what their source says, Grafana can read it, and it asks for what there is."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from boards.__main__ import BOARDS, FOLDER
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from loading import ROOT
from panels import Asked, asked, panels
from rules import alerts, metrics_of, rules

PROMETHEUS, LOKI = list(asked("prometheus")), list(asked("loki"))
KNOWN = yaml.safe_load((ROOT / "tests/repository/known_metrics.yml").read_text())
BUILT_IN = {"ALERTS"}


def said(one: Asked) -> str:
    return f"{one.dashboard}: {one.panel}"


def content(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return read


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_what_its_source_says(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == BOARDS[name], "PYTHONPATH=roles/grafana python -m boards"


def test_there_is_no_dashboard_without_a_source() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(BOARDS)


@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_own_model_reads_all_that_a_dashboard_says(name: str) -> None:
    read = json.loads(json.dumps(Dashboard.from_json(content(name)), cls=JSONEncoder))
    marks = content(name)["annotations"]["list"]
    # How Prometheus' values become times is of the data source, and in no model of the SDK.
    for mark in marks:
        for field in ("useValueForTime", "titleFormat", "step"):
            del mark[field]
    assert read == {**content(name), "annotations": {"list": marks}}


@pytest.mark.parametrize("name", BOARDS)
def test_panels_do_not_lie_on_each_other(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in [*panels(content(name)), *(one for one in content(name)["panels"] if one["type"] == "row")]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


@pytest.mark.parametrize("one", PROMETHEUS, ids=said)
def test_a_panel_asks_only_for_what_somebody_has(one: Asked) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    known = {name for names in KNOWN.values() for name in names}
    assert metrics_of(one.query) - recorded - known - BUILT_IN == set()


def test_every_variable_that_a_query_names_is_one_of_its_dashboard_and_is_filled_in() -> None:
    for file in FOLDER.glob("*.json"):
        ours = {variable["name"] for variable in content(file.stem)["templating"]["list"]}
        text = json.dumps(content(file.stem)["panels"])
        assert set(re.findall(r"\$\{?([a-z]\w*)", text)) <= ours
    assert [one for one in [*PROMETHEUS, *LOKI] if "$" in one.query] == []


def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    # promtool reads rules, and each query can be one.
    recorded = [{"record": f"query:{number}", "expr": one.query} for number, one in enumerate(PROMETHEUS)]
    recorded = [{**rule, "record": f"query_{number}"} for number, rule in enumerate(recorded)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint=none", file], capture_output=True, text=True, check=False
    )
    assert f"{len(PROMETHEUS)} rules found" in done.stdout, done.stderr


def test_there_are_queries_to_both() -> None:
    assert len(PROMETHEUS) > 50
    assert len(LOKI) >= 4


@pytest.mark.parametrize(
    ("panel", "alert"), [("Pods that are missing", "ReplicaMissing"), ("Differs from the release", "ReleaseDrift")]
)
def test_a_panel_about_the_release_reads_what_its_alert_judges(panel: str, alert: str) -> None:
    [query] = [one.query for one in PROMETHEUS if one.panel == panel]
    assert metrics_of(query) == metrics_of(alerts()[alert]["expr"])


SEEN = """
athena_release_replicas{service="proxy"} 2
athena_release_replicas{service="admin"} 2
athena_release_replicas{service="orchestrator"} 1
probe_success{job="health",pod="pod-1",service="proxy"} 1
probe_success{job="health",pod="pod-2",service="proxy"} 0
probe_success{job="health",pod="pod-3",service="admin"} 1
probe_success{job="health",pod="pod-4",service="admin"} 1
probe_success{job="health",pod="pod-5",service="admin"} 1
probe_success{job="health",service="orchestrator"} 1
athena_replicas_wanted{service="admin"} 2
athena_replicas_ready{service="admin"} 1
athena_replicas_wanted{service="redis"} 1
athena_replicas_ready{service="redis"} 0
athena_drift{service="proxy"} 0
athena_drift{service="redis"} 1
athena_build_info{service="proxy",version="1"} 1
athena_build_info{service="admin",version="2"} 1
athena_release_version_info{service="proxy",version="2"} 1
athena_release_version_info{service="admin",version="2"} 1
athena_schema_revision_info{revision="a",service="admin"} 1
athena_release_schema_info{revision="b"} 1
"""


def prometheus_shows(panel: str, seen: str, shown: Mapping[str, float], folder: Path) -> None:
    """Have promtool compare what a panel shows of series: by labels, the values."""
    [query] = [one.query for one in PROMETHEUS if one.panel == panel]
    series = [dict(zip(("series", "values"), line.rsplit(" ", 1), strict=True)) for line in seen.split("\n") if line]
    samples = [{"labels": labels, "value": value} for labels, value in shown.items()]
    asked_once = {"expr": query, "eval_time": "0m", "exp_samples": samples}
    file = folder / "panel.yml"
    file.write_text(yaml.safe_dump({"tests": [{"input_series": series, "promql_expr_test": [asked_once]}]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("panel", "shown"),
    [
        ("Pods that are missing", {"proxy": 1, "admin": 0, "orchestrator": 1, "redis": 1}),
        ("Differs from the release", {"proxy": 1, "redis": 1, "schema": 1}),
    ],
)
def test_a_panel_about_the_release_shows_what_prometheus_sees_and_the_rest_by_the_last_look(
    panel: str, shown: dict[str, int], tmp_path: Path
) -> None:
    prometheus_shows(panel, SEEN, {f'{{service="{service}"}}': value for service, value in shown.items()}, tmp_path)


SENSORS = """
node_thermal_zone_temp{instance="linux-1:9100",type="x86_pkg_temp"} 61
node_hwmon_temp_celsius{instance="linux-1:9100",sensor="temp1"} 63
node_hwmon_temp_celsius{instance="linux-1:9100",sensor="temp3"} 127
node_hwmon_temp_celsius{instance="linux-2:9100",sensor="temp1"} 104
"""


def test_a_temperature_is_not_that_of_an_input_that_no_sensor_is_at(tmp_path: Path) -> None:
    shown = {'{instance="linux-1:9100"}': 63, '{instance="linux-2:9100"}': 104}
    prometheus_shows("Temperature", SENSORS, shown, tmp_path)
