"""What Loki and a collector count, as Prometheus reads it."""

import re

import yaml
from caller_on_the_host import Caller
from loading import ROOT
from prometheus_client.parser import text_string_to_metric_families

_KNOWN = yaml.safe_load((ROOT / "tests/repository/known_metrics.yml").read_text())
# All that rules and dashboards may read of them.
(DISCARDED,) = _KNOWN["loki"]
NOT_QUEUED, NOT_SENT, QUEUE_CAPACITY, QUEUE_SIZE = _KNOWN["collector"]
EXPORTER = 'exporter="otlp_http/loki"'


def counted(caller: Caller, url: str, name: str) -> dict[str, float]:
    """Return the values of a metric, whose name is a pattern, by their labels in Prometheus' spelling, sorted."""
    status, text = caller.ask(url)
    assert status == 200, text
    return {
        ", ".join(f'{label}="{value}"' for label, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if re.fullmatch(name, sample.name)
    }
