"""What a real Prometheus knows of the running system, against what its callers got."""

from pathlib import Path

import httpx
import pytest
import yaml

from athena.db import migrate
from athena.observability.error_types import GROUPS
from athena.observability.families import Kind
from tests.monitoring.prometheus import Prometheus, check_metrics
from tests.monitoring.system import DISABLED, FAILING_OVER, NARROW, SHARED, System
from tests.monitoring.traffic import Tally
from tests.observability.metrics_page import families, shown

pytestmark = pytest.mark.slow

SERVICES = ("admin", "proxy", "orchestrator", "agent")
KNOWN = Path(__file__).parents[3] / "tests/repository/known_metrics.yml"
REPLIES = ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_provider_name", "backend_id")
# Only a Mac has these.
OF_A_MAC = {
    *("athena_host_memory_wired_bytes", "athena_host_memory_wired_limit_bytes", "athena_host_speed_limit_percent"),
    *("athena_host_thermal_warning", "athena_host_thermal_pressure", "athena_host_gpu_utilization_percent"),
}
# No machine without sensors has this.
OF_SENSORS = {"athena_host_temperature_celsius"}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.usefixtures("traffic")
def test_promtool_has_nothing_to_say(system: System, service: str) -> None:
    text = httpx.get(f"{system.services()[service].url}/metrics").content
    assert check_metrics(text) == ""


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.usefixtures("traffic")
def test_a_service_tells_the_families_that_the_manual_lists_and_no_others(system: System, service: str) -> None:
    lines = httpx.get(f"{system.services()[service].url}/metrics").text.splitlines()
    told = {line.split(" ")[2]: line.split(" ")[3] for line in lines if line.startswith("# TYPE ")}
    of_ours = {
        name: kind
        for name, kind in told.items()
        if not name.startswith(("process_", "python_")) and not name.endswith("_created")
    }
    assert of_ours == {shown(family): family.kind for family in families()[service]}


def test_whatever_rules_and_dashboards_may_read_of_ours_is_there(filled_prometheus: Prometheus) -> None:
    known = yaml.safe_load(KNOWN.read_text(encoding="utf-8"))
    there: set[str] = set().union(*(filled_prometheus.names(service) for service in SERVICES))
    assert {*known["services"], *known["agent"]} - there - OF_A_MAC - OF_SENSORS == set()


def test_every_family_has_series_after_traffic(filled_prometheus: Prometheus) -> None:
    for service, found in families().items():
        there = filled_prometheus.names(service)
        ends = {Kind.HISTOGRAM: "_bucket"}
        wanted = {shown(family) + ends.get(family.kind, "") for family in found}
        missing = wanted - there - OF_A_MAC - OF_SENSORS
        if service == "orchestrator":  # it wants no streams, no model of arms, and all that it asks is answered at once
            missing -= {"athena_arm_replies_total", "athena_arm_first_token_seconds_bucket"}
            missing -= {f"gen_ai_server_time_{what}_seconds_bucket" for what in ("to_first_token", "per_output_token")}
            missing -= {"athena_requests_moved_total", "athena_backend_failures_total"}
        assert missing == set(), service


def test_requests_are_counted_as_callers_saw_them(filled_prometheus: Prometheus, traffic: Tally) -> None:
    requests = filled_prometheus.query(
        f"sum by ({', '.join(REPLIES)}, error_type, error_group)"
        ' (gen_ai_server_request_duration_seconds_count{job="proxy"})'
    )
    whole: dict[tuple[str, str, str], float] = {}
    errors: dict[tuple[str, str], float] = {}
    for labels, value in requests:
        if "error_type" in labels:
            error = (labels["gen_ai_request_model"], labels["error_type"])
            errors[error] = errors.get(error, 0) + value
            assert labels["error_group"] == GROUPS[labels["error_type"]]
        else:
            reply = (labels["gen_ai_operation_name"], labels["gen_ai_request_model"], labels["backend_id"])
            whole[reply] = whole.get(reply, 0) + value
            assert "error_group" not in labels
    assert whole == traffic.replies
    assert errors == traffic.errors


def test_streams_and_tokens_are_counted_as_callers_saw_them(
    filled_prometheus: Prometheus, traffic: Tally, system: System
) -> None:
    where = f'gen_ai_request_model="{SHARED}",job="proxy"'
    streams = filled_prometheus.value(f"sum(gen_ai_server_time_to_first_token_seconds_count{{{where}}})")
    left = traffic.errors[SHARED, "cancelled"]  # those had their first token
    assert streams == left + sum(count for (_, model, _), count in traffic.streams.items() if model == SHARED)
    replies = sum(count for (_, model, _), count in traffic.replies.items() if model == SHARED)
    for kind in ("input", "output"):  # the stand-in engines count 3 of each
        tokens = f'{{{where},gen_ai_token_type="{kind}"}}'
        assert filled_prometheus.value(f"sum(gen_ai_client_token_usage_sum{tokens})") == 3 * replies
        assert filled_prometheus.value(f"sum(gen_ai_client_token_usage_count{tokens})") == replies
    pace = f'gen_ai_server_time_per_output_token_seconds_sum{{gen_ai_request_model="{NARROW}",job="proxy"}}'
    assert filled_prometheus.value(f"sum({pace}) > 0") > 0
    assert {one["backend_id"] for one, _ in filled_prometheus.query(f"gen_ai_client_token_usage_sum{{{where}}}")} == {
        str(number) for number in system.numbers[SHARED]
    }


def test_fallbacks_queues_and_breakers_show(filled_prometheus: Prometheus, system: System) -> None:
    first, second = system.numbers[FAILING_OVER]
    proxy = 'job="proxy"'
    assert filled_prometheus.value(f"sum(athena_requests_moved_total{{{proxy}}})") > 0
    assert filled_prometheus.value(f'sum(athena_backend_trips_total{{backend_id="{first}",{proxy}}})') > 0
    failures = f'athena_backend_failures_total{{backend_id="{first}",model="{FAILING_OVER}",provider="mlx",{proxy}}}'
    assert [one["reason"] for one, _ in filled_prometheus.query(f"{failures} > 0")] == ["status"]
    assert filled_prometheus.query(f'athena_backend_failures_total{{backend_id="{second}",{proxy}}}') == []
    assert filled_prometheus.value(f'sum(athena_backend_state{{backend_id="{second}",state="closed",{proxy}}})') == 1
    assert filled_prometheus.value(f"sum(athena_queue_wait_seconds_count{{{proxy}}})") > 0
    assert filled_prometheus.value(f"sum(athena_caller_left_total{{{proxy}}})") == 2
    assert filled_prometheus.value(f"athena_configuration_reachable{{{proxy}}}") == 1
    assert len(filled_prometheus.query(f"process_resident_memory_bytes{{{proxy}}}")) == 2  # one for each worker


def test_every_models_count_of_replies_has_grown_while_it_was_watched(filled_prometheus: Prometheus) -> None:
    for service in ("proxy", "orchestrator"):
        replies = f'gen_ai_server_request_duration_seconds_count{{job="{service}"}}'
        growing = filled_prometheus.query(f"sum by (gen_ai_request_model) (rate({replies}[10m])) > 0")
        assert len(growing) == len(filled_prometheus.query(f"sum by (gen_ai_request_model) ({replies})")) > 0


def test_the_orchestrators_steps_are_counted(filled_prometheus: Prometheus, traffic: Tally) -> None:
    answered, refused = traffic.queries[200], traffic.queries[422]
    job = 'job="orchestrator"'
    for step in ("classify", "answer"):
        assert filled_prometheus.value(f'athena_query_step_seconds_count{{step="{step}",{job}}}') == answered
    assert filled_prometheus.value(f"sum(gen_ai_server_request_duration_seconds_count{{{job}}})") == 2 * answered
    requests = 'http_server_request_duration_seconds_count{http_route="/query",http_response_status_code="%d",%s}'
    assert filled_prometheus.value(requests % (200, job)) == answered > 0
    assert filled_prometheus.value(requests % (422, job)) == refused > 0


def test_the_admin_api_tells_of_registry_hosts_and_schema(filled_prometheus: Prometheus, system: System) -> None:
    registered = sum(len(numbers) for numbers in system.numbers.values())
    disabled = len(system.numbers[DISABLED])
    assert filled_prometheus.value('athena_backends{enabled="true"}') == registered - disabled
    assert filled_prometheus.value('athena_backends{enabled="false"}') == disabled
    assert filled_prometheus.value('athena_host_report_age_seconds{host="mac-1"}') < 60
    ((labels, _),) = filled_prometheus.query("athena_schema_revision_info")
    assert labels["revision"] == migrate.head()
    route = '{http_route="/api/llm-backends/{backend_id:int}",http_request_method="PUT"}'
    assert filled_prometheus.value(f"http_server_request_duration_seconds_count{route}") == 2


def test_the_agent_tells_of_its_engines(filled_prometheus: Prometheus) -> None:
    engines = {one["engine"]: one["kind"] for one, _ in filled_prometheus.query("athena_engine_info == 1")}
    assert engines == {"ollama": "ollama", "mlx": "mlx"}
    assert filled_prometheus.value('athena_engine_restarts_total{engine="mlx",result="done"}') == 1
    assert filled_prometheus.value('athena_engine_given_up{engine="ollama"}') == 0


@pytest.mark.usefixtures("traffic")
def test_each_service_says_what_it_is(filled_prometheus: Prometheus) -> None:
    found = filled_prometheus.query("athena_build_info == 1")
    assert {(one["job"], one["service"]) for one, _ in found} == {(name, name) for name in SERVICES}
    assert len({one["version"] for one, _ in found}) == 1
