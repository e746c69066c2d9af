"""A monitoring host outside of the cluster sees all of it: pods, hosts, releases and backups, and every line."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from callers import address_towards
from deployment import Deployment
from loading import load
from scratch import wait_until
from trials import ROOT, run

pytest_plugins = ["the_deployment"]
# Loki and the collector are built, where no test before has needed them.
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

SERVICES = {"admin", "orchestrator", "proxy"}
APPS = {"athena-admin-backend", "athena-model-proxy", "athena-orchestrator"}
Labels = dict[str, str]
# A service's own way to send a trace, as its environment says.
A_TRACE = """
from opentelemetry.trace import SpanKind
from athena.observability.otel import Traces
traces = Traces("of-a-test", queue=8)
traces.begin("a span of a pod", SpanKind.SERVER, {}).end()
traces.close()
"""


@pytest.fixture(scope="module")
def monitored(deployment: Deployment) -> Iterator[Deployment]:
    """What is deployed, with the monitoring on the host of the database, and a collector on the cluster's node."""
    if not deployment.releases():
        done = deployment.run("deploy")
        assert done.code == 0, done.output
    name, variables = deployment.trial.name, deployment.trial.variables
    hosts = {
        f"{name}-db": {
            "athena_monitored_address": variables["athena_database_address"],
            # The kubeconfig has one that this machine alone reaches.
            "athena_api_server": f"https://{variables['athena_node_address']}:6443",
        },
        f"{name}-engines": {"athena_monitored_address": variables["athena_mlx_addresses"][0]},
    }
    group = {
        "hosts": hosts,
        "children": {"monitoring": {"hosts": {f"{name}-db": {}}}},
        "vars": with_logs(variables["athena_registry_push"], variables["athena_registry_pull"]),
    }
    file = deployment.trial.inventory / "monitoring.json"
    file.write_text(json.dumps({name.replace("-", "_"): group}))
    done = deployment.run("monitoring")
    assert done.code == 0, done.output
    yield deployment
    file.unlink()


def with_logs(push: str, pull: str) -> dict[str, str]:
    """Return what an inventory says that has logs; the programs are made here, and the image of one of them."""
    shared = ROOT / "molecule" / "shared"
    programs = Path(run(shared / "observability" / "programs"))
    words = (programs / "SHA256SUMS").read_text().split()
    sums = dict(zip(words[1::2], words[::2], strict=True))
    loki = next(name for name in sums if name.startswith("loki-"))
    collector = next(name for name in sums if name.startswith("otelcol_"))
    return {
        "loki_archive": str(programs / loki),
        "loki_archive_sha256": sums[loki],
        "log_collector_archive": str(programs / collector),
        "log_collector_archive_sha256": sums[collector],
        "log_collector_program": "otelcol",
        "log_collector_image": f"{pull}/log-collector@{run(shared / 'log-collector' / 'image', push)}",
    }


def found(deployment: Deployment, query: str) -> list[Labels]:
    """Return the labels of the series that a query gives."""
    asked = ("promtool", "query", "instant", "--format=json", "http://127.0.0.1:9090", query)
    series: list[dict[str, Labels]] = json.loads(deployment.trial.on("db", *asked))
    return [one["metric"] for one in series]


def values(deployment: Deployment, query: str, label: str) -> set[str]:
    return {labels[label] for labels in found(deployment, query)}


def collector(deployment: Deployment) -> str:
    """Return the name of the pod of the node's collector."""
    return deployment.trial.kubectl(
        *("get", "pods", "--namespace", "athena-logs", "--output", "jsonpath={.items[*].metadata.name}")
    )


def test_a_monitoring_host_sees_pods_hosts_releases_and_backups_of_a_cluster(monitored: Deployment) -> None:
    jobs = SERVICES | {"alertmanager", "collector", "health", "loki", "node", "postgres", "prometheus"}
    wait_until(lambda: values(monitored, "up == 1", "job") == jobs, 90)
    # Of every host one, and of the node; Prometheus asks for it before there is one.
    hosts = {f"{monitored.trial.name}-{host}:8889" for host in ("db", "engines")}
    wait_until(lambda: values(monitored, 'up{job="collector"} == 1', "instance") == hosts | {collector(monitored)}, 300)
    # Prometheus is there before the exporter that probes addresses for it.
    wait_until(lambda: found(monitored, "up == 0") == [], 60)
    wait_until(lambda: values(monitored, "probe_success == 1", "service") >= SERVICES, 60)

    monitored.who_answers()
    wait_until(lambda: bool(found(monitored, 'gen_ai_server_request_duration_seconds_count{job="proxy"} > 0')), 60)

    # By the orchestrator, which alone reaches it.
    assert values(monitored, "redis_up == 1", "job") == {"orchestrator"}

    # By `monitoring` itself, which looks at the cluster and at the ledger.
    wait_until(lambda: values(monitored, "athena_replicas_ready > 0", "service") >= SERVICES, 60)
    assert values(monitored, "athena_drift == 0", "service") >= SERVICES
    assert values(monitored, "athena_release_info", "release") == {monitored.in_force()["id"]}
    status = monitored.run("status")
    assert status.code == 0, status.output

    backup = monitored.run("backup")
    assert backup.code == 0, backup.output
    wait_until(lambda: bool(found(monitored, "time() - athena_backup_timestamp_seconds < 300")), 60)

    # Nearly as long as a new one lasts.
    ends = "athena_certificate_end_timestamp_seconds - time() > 700 * 86400"
    wait_until(lambda: values(monitored, ends, "certificate") == {"postgresql"}, 60)


def alerting(deployment: Deployment) -> set[str]:
    """Return which alerts of the release there are, also those that wait for their time."""
    return values(deployment, 'ALERTS{alertname=~"ReleaseDrift|ReplicaMissing"}', "alertname")


def test_what_is_missing_is_seen_without_anybody_looking_and_is_well_again_by_the_deployment_that_mends_it(
    monitored: Deployment,
) -> None:
    of_the_release = "athena_build_info and on (service, version) athena_release_version_info"
    wait_until(lambda: values(monitored, of_the_release, "service") == SERVICES, 60)
    wait_until(lambda: alerting(monitored) == set(), 60)
    monitored.trial.kubectl("scale", "--namespace", "athena", "deployment/athena-orchestrator", "--replicas=0")
    wait_until(lambda: alerting(monitored) == {"ReplicaMissing"}, 120)

    looked = monitored.run("status")
    assert looked.code == 8, looked.output
    wait_until(lambda: values(monitored, "athena_drift == 1", "service") == {"orchestrator"}, 60)
    wait_until(lambda: alerting(monitored) == {"ReleaseDrift", "ReplicaMissing"}, 60)

    mended = monitored.run("deploy")
    assert mended.code == 0, mended.output
    wait_until(lambda: values(monitored, "athena_drift == 0", "service") >= SERVICES, 60)
    wait_until(lambda: alerting(monitored) == set(), 120)


def lines(deployment: Deployment, query: str) -> list[Labels]:
    """Return what Loki says of each line that a query gives."""
    loki = f"http://{deployment.trial.variables['athena_database_address']}:3100"
    reply = httpx.get(f"{loki}/loki/api/v1/query_range", params={"query": query, "limit": 1000}, timeout=30)
    assert reply.status_code == httpx.codes.OK, reply.text
    streams: list[dict[str, Any]] = reply.json()["data"]["result"]
    return [one["stream"] for one in streams for _ in one["values"]]


def ask(deployment: Deployment, service: str, path: str, body: dict[str, Any], request_id: str) -> None:
    """Ask a service of the cluster from outside, under a request id."""
    port = deployment.trial.kubectl(
        *("get", "service", service, "--namespace", "athena", "--output", "jsonpath={.spec.ports[0].nodePort}")
    )
    url = f"http://{deployment.trial.variables['athena_node_address']}:{port}{path}"
    reply = httpx.post(url, json=body, headers={"x-request-id": request_id}, timeout=120)
    assert reply.status_code == httpx.codes.OK, reply.text


def test_a_request_id_finds_its_lines_of_every_service_of_a_cluster(monitored: Deployment) -> None:
    # Of this run: Loki has the lines of those before.
    mine = f"mine-{secrets.token_hex(4)}"
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "What is 2+2?"}], "stream": False}
    ask(monitored, "athena-model-proxy", "/api/chat", chat, mine)
    ask(monitored, "athena-orchestrator", "/query", {"query": "What is 2+2?", "mode": "owner"}, mine)
    # The Admin API is reached from within.
    inside = (
        "import os, urllib.request as r; r.urlopen(r.Request('http://127.0.0.1:8080/api/llm-backends', headers={{{}}}))"
    )
    headers = f"'x-request-id': '{mine}', 'authorization': 'Bearer ' + os.environ['ADMIN_API_TOKEN']"
    where = ("exec", "--namespace", "athena-admin", "deployment/athena-admin-backend", "--")
    monitored.trial.kubectl(*where, "python3", "-c", inside.format(headers))

    query = f'{{app=~".+"}} | request_id="{mine}"'
    wait_until(lambda: {line["app"] for line in lines(monitored, query)} >= APPS, 60)
    told = lines(monitored, query)
    assert {(line["app"], line["service"]) for line in told} == {
        ("athena-admin-backend", "admin"),
        ("athena-model-proxy", "proxy"),
        ("athena-orchestrator", "orchestrator"),
    }
    assert {line["environment"] for line in told} == {monitored.trial.name}
    assert {line["host"] for line in told} == {f"{monitored.trial.name}-cluster"}
    # What the API server was asked about the pod.
    assert {line["component"] for line in told} == APPS
    pods = monitored.trial.kubectl("get", "pods", "--all-namespaces", "--output", "jsonpath={.items[*].metadata.name}")
    assert {line["pod"] for line in told} <= set(pods.split())


def test_a_collector_that_is_gone_for_a_while_misses_no_line_of_a_cluster(monitored: Deployment) -> None:
    monitored.trial.kubectl("delete", "--namespace", "athena-logs", "pod", collector(monitored))
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "What is 2+2?"}], "stream": False}
    restart = f"restart-{secrets.token_hex(4)}"
    for number in range(20):
        ask(monitored, "athena-model-proxy", "/api/chat", chat, f"{restart}-{number}")
    query = f'{{app="athena-model-proxy"}} | request_id=~"{restart}-.+"'
    wait_until(lambda: len(lines(monitored, query)) >= 40, 90)
    events = [(line["request_id"], line["event"]) for line in lines(monitored, query)]
    assert len(events) == len(set(events)) == 40, "each once"


def have_logs(deployment: Deployment, **variables: str) -> None:
    """Have the collector of the node as the inventory has it, with other variables; hosts are left alone."""
    logs = ("--inventory", deployment.trial.inventory, "--limit", "cluster", "playbooks/monitoring/logs.yml")
    run("ansible-playbook", *logs, "--extra-vars", json.dumps(variables), at=deployment.clone)


def of_the_collector(deployment: Deployment, kind: str) -> set[str]:
    """Return the names of what there is of a kind that the collector consists of."""
    mine = ("--namespace", "athena-logs", "--selector", "app.kubernetes.io/name=athena-log-collector")
    return set(deployment.trial.kubectl("get", kind, *mine, "--output", "jsonpath={.items[*].metadata.name}").split())


def configuration(deployment: Deployment) -> str:
    """Return the name of the configuration in force."""
    path = "jsonpath={.spec.template.spec.volumes[*].configMap.name}"
    return deployment.trial.kubectl(
        *("get", "daemonset", "athena-log-collector", "--namespace", "athena-logs", "--output", path)
    )


def test_a_pods_traces_go_by_the_collector_of_its_node_and_nothing_stays_of_what_it_was_before(
    monitored: Deployment,
) -> None:
    without = configuration(monitored)
    otlp = load("service/tests/observability/otlp_receiver.py")
    with otlp.Receiver(address_towards(monitored.trial.variables["athena_node_address"])) as receiver:
        have_logs(monitored, athena_collected_traces_endpoint=receiver.url)
        endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://athena-log-collector.athena-logs.svc:4318"
        where = ("exec", "--namespace", "athena", "deployment/athena-model-proxy", "--")

        def arrives() -> bool:
            monitored.trial.kubectl(*where, "env", endpoint, "python3", "-c", A_TRACE)
            return any(span.service == "athena-of-a-test" for span in receiver.spans)

        with monitored.let_out(4318):  # as a deployment does that knows of the collector
            wait_until(arrives, 90)
    with_traces = configuration(monitored)
    assert of_the_collector(monitored, "service") == {"athena-log-collector"}
    assert of_the_collector(monitored, "configmap") == {without, with_traces}, "the one before is for the way back"

    have_logs(monitored, log_collector_queue_mib="256")
    assert of_the_collector(monitored, "service") == set(), "nobody would take what is brought"
    assert of_the_collector(monitored, "configmap") == {with_traces, configuration(monitored)}
