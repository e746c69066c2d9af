"""What a real Prometheus knows of the running system, against what its callers got."""

import httpx
import pytest

from tests.monitoring.prometheus import Prometheus, check_metrics
from tests.monitoring.system import System
from tests.monitoring.traffic import Tally

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("service", ["admin", "proxy", "orchestrator", "agent"])
@pytest.mark.usefixtures("traffic")
def test_promtool_has_nothing_to_say(system: System, service: str) -> None:
    text = httpx.get(f"{system.services()[service].url}/metrics").content
    assert check_metrics(text) == ""


def test_requests_are_counted_as_callers_saw_them(filled_prometheus: Prometheus, traffic: Tally) -> None:
    requests = filled_prometheus.query(
        "sum by (gen_ai_operation_name, gen_ai_request_model, backend_id, error_type)"
        ' (gen_ai_server_request_duration_seconds_count{job="proxy"})'
    )
    whole = {
        (one["gen_ai_operation_name"], one["gen_ai_request_model"], one["backend_id"]): value
        for one, value in requests
        if "error_type" not in one
    }
    assert whole == traffic.replies
    errors: dict[tuple[str, str], float] = {}
    for one, value in requests:
        if "error_type" in one:
            key = (one["gen_ai_request_model"], one["error_type"])
            errors[key] = errors.get(key, 0) + value
    assert errors == traffic.errors
