"""Every panel of every dashboard shows something, asked of a real Prometheus that has watched the running system."""

import math

import pytest
from panels import Asked, asked

from tests.monitoring.prometheus import Prometheus

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("one", list(asked("prometheus")), ids=lambda one: f"{one.dashboard}: {one.panel}")
def test_a_panel_shows_something(one: Asked, filled_prometheus: Prometheus) -> None:
    assert [value for _, value in filled_prometheus.query(one.query) if not math.isnan(value)], one.query


def test_an_alert_of_a_rule_reaches_the_page_of_alerts(filled_prometheus: Prometheus) -> None:
    firing = {labels["alertname"] for labels, _ in filled_prometheus.query('ALERTS{alertstate="firing"}')}
    assert "StatusNotLookedAt" in firing


def test_no_rule_fails(filled_prometheus: Prometheus) -> None:
    assert filled_prometheus.rule_errors() == []


def test_promises_are_judged_by_what_callers_got(filled_prometheus: Prometheus) -> None:
    # Engines failed two kinds of requests in each round; nobody counts the caller's own mistakes.
    assert filled_prometheus.value("athena:availability_budget:burn30d") > 1
    assert 0 <= filled_prometheus.value("athena:first_token_budget:burn30d") <= 20
