"""Prometheus outside of the cluster sees all of it: pods through the API server, hosts, releases and backups."""

import json
from collections.abc import Iterator

import pytest
from deployment import Deployment
from scratch import wait_until

pytest_plugins = ["the_deployment"]
pytestmark = pytest.mark.timeout(900)

SERVICES = {"admin", "orchestrator", "proxy"}


@pytest.fixture
def monitored(deployment: Deployment) -> Iterator[Deployment]:
    """What is deployed, with the monitoring on the host of the database."""
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
    group = {"hosts": hosts, "children": {"monitoring": {"hosts": {f"{name}-db": {}}}}}
    file = deployment.trial.inventory / "monitoring.json"
    file.write_text(json.dumps({name.replace("-", "_"): group}))
    yield deployment
    file.unlink()


def found(deployment: Deployment, query: str) -> list[dict[str, str]]:
    """Return the labels of the series that a query gives."""
    asked = ("promtool", "query", "instant", "--format=json", "http://127.0.0.1:9090", query)
    series: list[dict[str, dict[str, str]]] = json.loads(deployment.trial.on("db", *asked))
    return [one["metric"] for one in series]


def values(deployment: Deployment, query: str, label: str) -> set[str]:
    return {labels[label] for labels in found(deployment, query)}


def test_a_monitoring_host_sees_pods_hosts_releases_and_backups_of_a_cluster(monitored: Deployment) -> None:
    done = monitored.run("monitoring")
    assert done.code == 0, done.output

    jobs = SERVICES | {"alertmanager", "health", "node", "postgres", "prometheus"}
    wait_until(lambda: values(monitored, "up == 1", "job") == jobs, 90)
    # Prometheus is there before the exporter that probes addresses for it.
    wait_until(lambda: found(monitored, "up == 0") == [], 60)
    wait_until(lambda: values(monitored, "probe_success == 1", "service") >= SERVICES, 60)

    monitored.who_answers()
    wait_until(lambda: bool(found(monitored, 'gen_ai_server_request_duration_seconds_count{job="proxy"} > 0')), 60)

    status = monitored.run("status")
    assert status.code == 0, status.output
    wait_until(lambda: values(monitored, "athena_replicas_ready > 0", "service") >= SERVICES, 60)
    assert values(monitored, "athena_drift == 0", "service") >= SERVICES
    assert values(monitored, "athena_release_info", "release") == {monitored.in_force()["id"]}

    backup = monitored.run("backup")
    assert backup.code == 0, backup.output
    wait_until(lambda: bool(found(monitored, "time() - athena_backup_timestamp_seconds < 300")), 60)
