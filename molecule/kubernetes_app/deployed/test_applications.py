"""What is on the cluster after the release has been deployed, asked of its API server."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiException, CoreV1Api
from kubernetes.config import new_client_from_config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError
from kubernetes.stream import stream

NAMESPACE = "athena-test"
APPLICATIONS = ["web", "redis"]
Object = dict[str, Any]


class Cluster:
    """The API server, in plain dictionaries."""

    def __init__(self, client: DynamicClient) -> None:
        self._client = client
        self.core = CoreV1Api(client.client)

    def get(self, kind: str, name: str | None = None, version: str = "v1", **filters: str) -> Object:
        resource = self._client.resources.get(api_version=version, kind=kind)
        found: Object = resource.get(name=name, namespace=NAMESPACE, **filters).to_dict()
        return found

    def deployment(self, name: str) -> Object:
        return self.get("Deployment", name, "apps/v1")

    def pods(self, name: str) -> list[Object]:
        found: list[Object] = self.get("Pod", label_selector=f"app.kubernetes.io/name={name}")["items"]
        return found

    def run(self, application: str, *command: str) -> str:
        """Return what a command prints in a pod of the application."""
        pod = self.pods(application)[0]["metadata"]["name"]
        asked = {"command": list(command), "stdout": True, "stderr": True, "stdin": False, "tty": False}
        connection = stream(self.core.connect_get_namespaced_pod_exec, pod, NAMESPACE, **asked, _preload_content=False)
        connection.run_forever(timeout=30)
        printed: str = connection.read_all()
        connection.sock.shutdown()  # its `close` leaves a socket open that the server has closed
        return printed


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    left_behind = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "cluster.json"
    client = new_client_from_config(json.loads(left_behind.read_text())["kubeconfig"])
    yield Cluster(DynamicClient(client))
    client.rest_client.pool_manager.clear()  # its `close` leaves connections open
    client.close()


def pod_spec(cluster: Cluster, name: str) -> Object:
    found: Object = cluster.deployment(name)["spec"]["template"]["spec"]
    return found


def container(cluster: Cluster, name: str) -> Object:
    (only,) = pod_spec(cluster, name)["containers"]
    found: Object = only
    return found


@pytest.mark.parametrize("name", APPLICATIONS)
def test_every_pod_is_ready_and_of_the_digest_that_was_asked_for(cluster: Cluster, name: str) -> None:
    digest = container(cluster, name)["image"].split("@")[1]
    statuses = [status for pod in cluster.pods(name) for status in pod["status"]["containerStatuses"]]
    assert len(statuses) == (1 if name == "redis" else 2)
    assert all(status["ready"] and status["imageID"].endswith(digest) for status in statuses)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_pod_may_do_nothing_that_its_process_does_not_need(cluster: Cluster, name: str) -> None:
    assert container(cluster, name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    context = pod_spec(cluster, name)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["runAsGroup"] == 10001
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_a_process_is_not_root_and_cannot_write_beside_its_folders(cluster: Cluster) -> None:
    assert cluster.run("web", "id", "-u").strip() == "10001"
    assert "Read-only file system" in cluster.run("web", "touch", "/usr/here")
    assert cluster.run("web", "sh", "-c", "cd /tmp && touch here") == ""


@pytest.mark.parametrize("name", APPLICATIONS)
def test_no_pod_has_a_token_of_the_cluster(cluster: Cluster, name: str) -> None:
    assert pod_spec(cluster, name)["automountServiceAccountToken"] is False
    assert cluster.get("ServiceAccount", name)["automountServiceAccountToken"] is False
    assert "No such file" in cluster.run(name, "ls", "/var/run/secrets/kubernetes.io")


def test_the_namespace_refuses_a_pod_that_wants_more(cluster: Cluster) -> None:
    pod = {"metadata": {"name": "root"}, "spec": {"containers": [{"name": "root", "image": "nothing"}]}}
    with pytest.raises(ApiException, match="restricted"):
        cluster.core.create_namespaced_pod(NAMESPACE, pod)


def test_start_readiness_and_life_are_probed_apart(cluster: Cluster) -> None:
    probes = {kind: container(cluster, "web")[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["httpGet"]["path"] for kind, probe in probes.items()} == {
        "startup": "/livez",
        "readiness": "/health",
        "liveness": "/livez",
    }
    assert probes["startup"]["failureThreshold"] > probes["liveness"]["failureThreshold"]


def test_a_pod_that_ends_has_time_for_its_streams(cluster: Cluster) -> None:
    assert container(cluster, "web")["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert pod_spec(cluster, "web")["terminationGracePeriodSeconds"] == 5 + 20


def test_an_update_starts_a_pod_before_it_ends_one_and_spreads_them(cluster: Cluster) -> None:
    spec = cluster.deployment("web")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"


@pytest.mark.parametrize("name", APPLICATIONS)
def test_emptying_a_node_takes_one_pod_at_a_time(cluster: Cluster, name: str) -> None:
    budget = cluster.get("PodDisruptionBudget", name, "policy/v1")
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["status"]["disruptionsAllowed"] == 1


def test_the_autoscaler_owns_the_count_of_pods_where_there_is_one(cluster: Cluster) -> None:
    autoscaler = cluster.get("HorizontalPodAutoscaler", "web", "autoscaling/v2")["spec"]
    assert (autoscaler["minReplicas"], autoscaler["maxReplicas"]) == (2, 4)
    assert autoscaler["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}
    assert cluster.deployment("web")["spec"]["replicas"] == 2
    assert "athena" not in [entry["manager"] for entry in owners_of(cluster.deployment("web"), "f:replicas")]
    with pytest.raises(NotFoundError):
        cluster.get("HorizontalPodAutoscaler", "redis", "autoscaling/v2")


def owners_of(deployed: Object, field: str) -> list[Object]:
    return [entry for entry in deployed["metadata"]["managedFields"] if field in entry["fieldsV1"].get("f:spec", {})]


@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_pods_were_applied_by_the_server_in_our_name(cluster: Cluster, name: str) -> None:
    owners = owners_of(cluster.deployment(name), "f:template")
    assert [(entry["manager"], entry["operation"]) for entry in owners] == [("athena", "Apply")]


def test_only_those_who_are_named_reach_it_and_it_reaches_only_what_is_named(cluster: Cluster) -> None:
    policy = cluster.get("NetworkPolicy", "web", "networking.k8s.io/v1")["spec"]
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert policy["ingress"] == [
        {
            "ports": [{"port": "main", "protocol": "TCP"}],
            "from": [
                {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
                    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "caller"}},
                }
            ],
        }
    ]
    names, database = policy["egress"]
    assert {port["protocol"] for port in names["ports"]} == {"TCP", "UDP"}
    assert database == {
        "ports": [{"port": 5432, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
    }


def test_redis_is_reached_from_its_namespace_and_reaches_nothing_but_names(cluster: Cluster) -> None:
    policy = cluster.get("NetworkPolicy", "redis", "networking.k8s.io/v1")["spec"]
    assert policy["ingress"][0]["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}}
    ]
    assert len(policy["egress"]) == 1


def test_release_and_revision_are_on_the_objects_and_not_on_the_pods(cluster: Cluster) -> None:
    deployed = cluster.deployment("web")
    assert deployed["metadata"]["labels"]["athena/release"] == "r1"
    assert deployed["metadata"]["annotations"]["athena/revision"] == "0123abc"
    assert "r1" not in str(deployed["spec"]["template"]["metadata"])


def test_a_secret_is_an_environment_variable_and_a_file_of_the_process(cluster: Cluster) -> None:
    length = "import os; print(len(os.environ['TOKEN']), open('/etc/web/keys').read().split()[0])"
    assert cluster.run("web", "python3", "-c", length).split() == ["17", "alice"]


def test_a_machine_outside_has_a_name_of_the_cluster(cluster: Cluster) -> None:
    assert "selector" not in cluster.get("Service", "ollama")["spec"]
    lookup = "import socket; print(socket.gethostbyname('ollama.athena-test.svc'))"
    assert cluster.run("web", "python3", "-c", lookup).strip() == cluster.get("Service", "ollama")["spec"]["clusterIP"]
    endpoints = cluster.get("EndpointSlice", "ollama", "discovery.k8s.io/v1")
    assert endpoints["endpoints"][0]["addresses"] == ["192.0.2.7"]
    assert endpoints["ports"][0]["port"] == 11434


def test_redis_asks_for_its_password_and_may_not_be_administered(cluster: Cluster) -> None:
    assert "NOAUTH" in cluster.run("redis", "env", "-u", "REDISCLI_AUTH", "redis-cli", "get", "a")
    assert cluster.run("redis", "redis-cli", "ping").strip() == "PONG"
    assert "NOPERM" in cluster.run("redis", "redis-cli", "config", "get", "maxmemory")


def wait_for_another_pod(cluster: Cluster, application: str, old: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pods = [pod for pod in cluster.pods(application) if pod["metadata"]["name"] != old]
        if len(pods) == len(cluster.pods(application)) and all(is_ready(pod) for pod in pods):
            return
        time.sleep(1)
    pytest.fail(f"{application} has no other pod than {old} after a minute")


def is_ready(pod: Object) -> bool:
    return all(status["ready"] for status in pod["status"].get("containerStatuses", [{"ready": False}]))


def test_redis_keeps_what_was_written_when_its_pod_is_replaced(cluster: Cluster) -> None:
    assert cluster.run("redis", "redis-cli", "set", "kept", "yes").strip() == "OK"
    old = cluster.pods("redis")[0]["metadata"]["name"]
    cluster.core.delete_namespaced_pod(old, NAMESPACE)
    wait_for_another_pod(cluster, "redis", old)
    assert cluster.run("redis", "redis-cli", "get", "kept").strip() == "yes"
    information = cluster.run("redis", "redis-cli", "info", "memory")
    assert "maxmemory_human:16.00M" in information
    assert "maxmemory_policy:allkeys-lru" in information
