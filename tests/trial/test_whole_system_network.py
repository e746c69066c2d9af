"""Who reaches whom on a cluster that enforces network policies: from real pods, with the policies and without them.

Everything is left as it was found.
"""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from deployment import Deployment
from scratch import wait_until
from trials import KUBECONFIG

pytest_plugins = ["the_deployment"]
pytestmark = pytest.mark.timeout(300)

# Tells which of its arguments, URLs or HOST:PORT, a pod reaches.
TRY = """
import json, socket, sys, urllib.request
from concurrent.futures import ThreadPoolExecutor
def reaches(target):
    try:
        if target.startswith("http"):
            urllib.request.urlopen(target, timeout=3).close()
        else:
            host, port = target.split(":")
            socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        return False
    return True
with ThreadPoolExecutor() as pool:
    print(json.dumps(list(pool.map(reaches, sys.argv[1:]))))
"""
# A port of a pod that its Service does not know; for five minutes, if nobody ends it.
LISTEN = "import socket; server = socket.create_server(('', 9999))\nwhile True: server.accept()[0].close()"

PROXY, ORCHESTRATOR, LOOK_UP, REDIS = "the proxy", "the orchestrator", "the look-up without a token", "Redis"
DATABASE, ANOTHER_PORT = "the database", "another port of an Admin API's pod"
ALL = {PROXY, ORCHESTRATOR, LOOK_UP, REDIS, DATABASE, ANOTHER_PORT}
# No policy keeps a pod from itself, and it may be the one that its Service leads to: nobody is asked for these.
OWN = {"a proxy": PROXY, "an orchestrator": ORCHESTRATOR, "an Admin API": LOOK_UP}
# Out of a pod that is none of ours everything goes that the other side lets in: the database asks for a password.
MAY_REACH = {
    "a proxy": {LOOK_UP, REDIS},
    "an orchestrator": {LOOK_UP, REDIS},
    "an Admin API": {DATABASE, PROXY},
    "a look at services": {LOOK_UP},
    "a look at the registry": {LOOK_UP},
    "a look at the schema": {DATABASE},
    "a pod that the inventory names": {LOOK_UP, DATABASE},
    "a stranger beside it": {DATABASE},
    "a stranger beside proxy and Redis": {PROXY, ORCHESTRATOR, DATABASE},
    "a stranger beside the Admin API": {DATABASE},
    "a stranger elsewhere": {DATABASE},
}


class Pod(NamedTuple):
    """A pod that connections come from."""

    namespace: str
    name: str


# The pods of a test: where they are, and by what labels policies know them.
STRANGER = {"app": "of-a-test"}
A_LOOK = {"app.kubernetes.io/name": "athena-look"}
OF_THE_TEST = {
    "a look at services": ("athena", A_LOOK),
    "a look at the registry": ("automation", A_LOOK),
    "a look at the schema": ("athena-admin", A_LOOK),
    "a pod that the inventory names": ("automation", {"app": "nightly"}),
    "a stranger beside it": ("automation", STRANGER),
    "a stranger beside proxy and Redis": ("athena", STRANGER),
    "a stranger beside the Admin API": ("athena-admin", STRANGER),
    "a stranger elsewhere": ("default", STRANGER),
}


class Network:
    """The pods of a deployment and some of a test, and what they reach."""

    def __init__(self, deployment: Deployment) -> None:
        self._trial = deployment.trial
        self._image = deployment.in_force()["content"]["images"]["service"]
        self._asked, self._asking = self._pods("athena-admin", "athena-admin-backend")
        of_the_test = {
            role: Pod(namespace, role.replace(" ", "-").lower()) for role, (namespace, _) in OF_THE_TEST.items()
        }
        self._pods_by_role = {
            "a proxy": self._pods("athena", "athena-model-proxy")[0],
            "an orchestrator": self._pods("athena", "athena-orchestrator")[0],
            "an Admin API": self._asking,
            **of_the_test,
        }
        address = self._trial.kubectl(
            *("get", "pod", self._asked.name, "--namespace", self._asked.namespace),
            *("--output", "jsonpath={.status.podIP}"),
        )
        self._targets = {
            PROXY: "athena-model-proxy.athena.svc:8100",
            ORCHESTRATOR: "athena-orchestrator.athena.svc:8001",
            LOOK_UP: "http://athena-admin-backend.athena-admin.svc:8080/api/llm-backends/model/tiny",
            REDIS: "redis.athena.svc:6379",
            DATABASE: f"{self._trial.variables['athena_database_address']}:5432",
            ANOTHER_PORT: f"{address}:9999",
        }

    def _pods(self, namespace: str, application: str) -> list[Pod]:
        """Return the pods of an application that stay."""
        told = self._trial.kubectl(
            *("get", "pods", "--namespace", namespace, "--selector", f"app.kubernetes.io/name={application}"),
            *("--field-selector", "status.phase=Running", "--output", "json"),
        )
        found = [pod["metadata"] for pod in json.loads(told)["items"]]
        return [Pod(namespace, pod["name"]) for pod in found if "deletionTimestamp" not in pod]

    def _execute(self, pod: Pod, *command: str) -> tuple[str, ...]:
        return ("exec", "--namespace", pod.namespace, pod.name, "--", *command)

    @contextmanager
    def peopled(self) -> Iterator[None]:
        """Have the pods of the test, and somebody who listens at another port."""
        listening = ("kubectl", "--kubeconfig", KUBECONFIG)
        command = self._execute(self._asked, "timeout", "300", "python3", "-c", LISTEN)
        with subprocess.Popen(["docker", "exec", f"{self._trial.name}-cluster", *listening, *command]) as listener:
            try:
                for role, (_, labels) in OF_THE_TEST.items():
                    self._trial.apply(self._manifest(self._pods_by_role[role], labels))
                for role in OF_THE_TEST:
                    namespace, name = self._pods_by_role[role]
                    there = ("wait", "--for", "condition=Ready", "--namespace", namespace, f"pod/{name}")
                    self._trial.kubectl(*there, "--timeout", "60s")
                yield
            finally:
                for role in OF_THE_TEST:
                    namespace, name = self._pods_by_role[role]
                    self._trial.kubectl("delete", "pod", name, "--namespace", namespace, "--ignore-not-found", "--now")
                listener.terminate()

    def _manifest(self, pod: Pod, labels: dict[str, str]) -> dict[str, Any]:
        container = {
            "name": pod.name,
            "image": self._image,
            "command": ["sleep", "600"],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        restricted = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": labels},
            "spec": {
                "containers": [container],
                "securityContext": restricted,
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
            },
        }

    def who_reaches_what(self) -> dict[str, set[str]]:
        """Have every pod connect to everything but the service that it is of."""

        def reached(role: str) -> set[str]:
            targets = {name: target for name, target in self._targets.items() if name != OWN.get(role)}
            said = self._trial.kubectl(
                *self._execute(self._pods_by_role[role], "python3", "-c", TRY, *targets.values())
            )
            return {target for target, reaches in zip(targets, json.loads(said), strict=True) if reaches}

        with ThreadPoolExecutor() as pool:
            return dict(zip(self._pods_by_role, pool.map(reached, self._pods_by_role), strict=True))

    @contextmanager
    def without_policies(self) -> Iterator[None]:
        """Have nobody enforce the policies."""
        self._trial.on("cluster", "systemctl", "stop", "kube-policies")
        try:
            ended = self._trial.on("cluster", "systemctl", "show", "--property=Result", "--value", "kube-policies")
            assert ended == "success", "rules are left"
            yield
        finally:
            self._trial.on("cluster", "systemctl", "start", "kube-policies")


@pytest.fixture(scope="module")
def network(deployment: Deployment) -> Iterator[Network]:
    deployment.told("status")  # its Jobs leave the policies of looks
    network = Network(deployment)
    with network.peopled():
        yield network


def everybody_reaches_what_it_may(network: Network) -> bool:
    """Whether the rules know the pods, which they do a moment late."""
    reached = network.who_reaches_what()
    return all(MAY_REACH[role] <= reached[role] for role in MAY_REACH)


def test_whoever_a_policy_names_reaches_what_it_needs_and_nobody_else_does(network: Network) -> None:
    wait_until(lambda: everybody_reaches_what_it_may(network), 30)
    assert network.who_reaches_what() == MAY_REACH


def test_it_is_the_policies_that_keep_the_others_out(network: Network) -> None:
    with network.without_policies():
        assert network.who_reaches_what() == {role: ALL - {OWN.get(role)} for role in MAY_REACH}
    wait_until(lambda: network.who_reaches_what() == MAY_REACH, 30)
