"""What group_vars/all makes of settings of the services: nothing, unless their variables are set."""

from typing import Any

import pytest
from playing import evaluated

SERVICES = ("admin", "proxy", "orchestrator")
OURS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "ATHENA_LOG_CONTENT")


@pytest.mark.parametrize(
    ("environment", "group", "table"),
    [("dev", "supervised", "athena_services"), ("production", "cluster", "athena_applications")],
)
def test_unset_they_change_nothing_and_set_they_reach_every_service(environment: str, group: str, table: str) -> None:
    names = "{" + ", ".join(f"'{name}': {table}.{name}.environment" for name in SERVICES) + "}"
    for given in evaluated(environment, group, names).values():
        assert not set(given) & set(OURS)
    chosen = {"athena_traces_endpoint": "http://192.0.2.10:4318", "athena_log_content": "redacted"}
    chosen |= {"athena_traces_sampler": "parentbased_traceidratio", "athena_traces_sampler_argument": "0.1"}
    for given in evaluated(environment, group, names, **chosen).values():
        assert {name: given[name] for name in OURS} == {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://192.0.2.10:4318",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
            "ATHENA_LOG_CONTENT": "redacted",
        }


@pytest.mark.parametrize(
    ("environment", "group", "table"),
    [("dev", "supervised", "athena_services"), ("production", "cluster", "athena_applications")],
)
def test_how_prompts_are_routed_is_for_an_inventory_to_say(environment: str, group: str, table: str) -> None:
    routers = "{" + ", ".join(f"'{name}': {table}.{name}.environment" for name in ("proxy", "orchestrator")) + "}"
    said = {
        "ROUTER_AUTO_POLICY": "measured",
        "ROUTER_HOST_POLICY": "warm",
        "QUEUE_SECONDS": "20",
        "OLLAMA_CONCURRENCY": "4",
    }
    for given in evaluated(environment, group, routers).values():
        assert not set(given) & set(said)
    chosen = {"athena_auto_policy": "measured", "athena_host_policy": "warm"}
    chosen |= {"athena_queue_seconds": "20", "athena_ollama_concurrency": "4"}
    for given in evaluated(environment, group, routers, **chosen).values():
        assert {name: given[name] for name in said} == said


# What an inventory says that has collectors on the nodes of its cluster.
WITH_COLLECTORS = {
    "loki_archive_sha256": "0" * 64,
    "log_collector_archive_sha256": "0" * 64,
    "log_collector_image": f"registry.example.internal/otelcol@sha256:{'0' * 64}",
}


def test_pods_bring_their_traces_to_the_collector_of_their_node_where_that_hands_them_on() -> None:
    chosen = {**WITH_COLLECTORS, "athena_collected_traces_endpoint": "http://tempo.example.internal:4318"}
    table = "athena_applications.{0}"
    both = ", ".join(f"[{table}.environment, {table}.egress_to]".format(name) for name in SERVICES)
    for environment, egress in evaluated("production", "cluster", f"[{both}]", **chosen):
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://athena-log-collector.athena-logs.svc:4318"
        pods = {"app.kubernetes.io/name": "athena-log-collector"}
        assert {"namespace": "athena-logs", "pods": pods, "ports": [4318]} in egress


@pytest.mark.parametrize(
    "missing", [{"log_collector_image": ""}, {"athena_collected_traces_endpoint": ""}, {"loki_archive_sha256": ""}]
)
def test_they_send_none_where_no_collector_of_a_node_would_take_them(missing: dict[str, str]) -> None:
    chosen = {**WITH_COLLECTORS, "athena_collected_traces_endpoint": "http://tempo.example.internal:4318", **missing}
    assert evaluated("production", "cluster", "athena_traces_endpoint ~ '|' ~ athena_traces_egress", **chosen) == "|[]"


@pytest.mark.parametrize(
    ("endpoint", "rules"),
    [
        ("", []),
        ("http://192.0.2.10:4318", [{"cidr": "192.0.2.10/32", "ports": [4318]}]),
        ("https://192.0.2.10", [{"cidr": "192.0.2.10/32", "ports": [443]}]),
        ("http://collector.example.internal:4318", []),
    ],
)
def test_pods_may_reach_the_receiver_and_no_one_else_for_it(endpoint: str, rules: list[Any]) -> None:
    egress = "[" + ", ".join(f"athena_applications.{name}.egress_to" for name in SERVICES) + "]"
    before = evaluated("production", "cluster", egress)
    after = evaluated("production", "cluster", egress, athena_traces_endpoint=endpoint)
    assert [[rule for rule in now if rule not in then] for then, now in zip(before, after, strict=True)] == [rules] * 3


@pytest.mark.parametrize("router", ["proxy", "orchestrator"])
def test_a_cluster_without_a_machine_for_it_has_no_default_ollama(router: str) -> None:
    given = f"athena_applications.{router}.environment.OLLAMA_URL"
    assert evaluated("production", "cluster", given) == "http://ollama.athena.svc:11434"
    assert evaluated("production", "cluster", given, athena_ollama_addresses=[]) == "none"
