"""What is said of a cluster that does not answer, does not let us in, or is empty."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import pytest
from kubeconfigs import kubeconfig
from loading import load
from playing import evaluated, run_plays
from serving import Answering, serving


@pytest.fixture(scope="module")
def reach() -> ModuleType:
    return load("roles/kubernetes_app/action_plugins/kubernetes_reach.py")


@contextmanager
def api_server(
    status: int,
    nodes: int = 0,
    *,
    hangs: bool = False,
    rules: dict[str, Any] | None = None,
    secrets: dict[str, tuple[int, str]] | None = None,
    version: dict[str, str] | None = None,
    itself: tuple[int, str] | None = None,
) -> Iterator[str]:
    """An API server that lists its nodes and tells what a caller may, refuses to, or never answers."""
    ended = Event()

    class Handler(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if hangs:
                ended.wait(30)
                return
            if self.path == "/version":
                self.tell(200, version or {})
                return
            if self.path == "/api/v1/namespaces/kube-system":
                code, uid = itself or (403, "")
                self.tell(code, {"kind": "Namespace", "apiVersion": "v1", "metadata": {"uid": uid}})
                return
            if "/secrets/" in self.path:
                namespace, _, name = self.path.removeprefix("/api/v1/namespaces/").split("/")
                code, kind = (secrets or {})[namespace]
                self.tell(code, {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name}, "type": kind})
                return
            items = [{"metadata": {"name": f"node-{number}"}} for number in range(nodes)]
            self.tell(status, {"kind": "NodeList", "apiVersion": "v1", "items": items})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
            self.tell(201 if rules else 403, {**asked, "status": (rules or {}).get(asked["spec"]["namespace"])})

        def tell(self, status: int, content: dict[str, Any]) -> None:
            self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    with serving(Handler) as address:
        yield f"http://{address}"
        ended.set()


def test_a_cluster_with_a_node_answers(reach: ModuleType, tmp_path: Path) -> None:
    with api_server(200, nodes=1) as server:
        assert reach.silence(kubeconfig(tmp_path, server), 5) == ""


@pytest.mark.parametrize(
    ("itself", "uid"), [((200, "one-of-its-own"), "one-of-its-own"), ((403, ""), ""), ((404, ""), "")]
)
def test_it_is_known_from_others_where_we_may_look(
    reach: ModuleType, tmp_path: Path, itself: tuple[int, str], uid: str
) -> None:
    with api_server(200, nodes=1, itself=itself) as server:
        assert reach.uid(kubeconfig(tmp_path, server), 5) == uid


@pytest.mark.parametrize(("status", "words"), [(200, "no nodes"), (401, "401"), (403, "403")])
def test_one_that_is_of_no_use_is_told_by_its_reason(
    reach: ModuleType, tmp_path: Path, status: int, words: str
) -> None:
    with api_server(status) as server:
        assert words in reach.silence(kubeconfig(tmp_path, server), 5)


def test_one_that_is_not_there_is_told_at_once(reach: ModuleType, tmp_path: Path) -> None:
    assert "refused" in reach.silence(kubeconfig(tmp_path, "https://127.0.0.1:9"), 5)


def test_one_that_hangs_is_waited_for_once(reach: ModuleType, tmp_path: Path) -> None:
    began = time.monotonic()
    with api_server(200, hangs=True) as server:
        assert "timed out" in reach.silence(kubeconfig(tmp_path, server), 1)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("text", ["", "nonsense: [", "- a list"])
def test_a_file_that_says_nothing_of_a_cluster_is_told(reach: ModuleType, tmp_path: Path, text: str) -> None:
    file = tmp_path / "kubeconfig"
    assert reach.silence(str(file), 5) != ""
    file.write_text(text)
    assert reach.silence(str(file), 5) != ""


READS = {"apiGroups": ["", "apps"], "resources": ["pods", "deployments"], "verbs": ["get", "list"]}
WRITES_ONE = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"], "resourceNames": ["another"]}
ALL = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
NEEDS = [
    {"group": "", "resources": ["pods"], "verbs": ["get", "list"]},
    {"group": "apps", "resources": ["deployments"], "verbs": ["get", "create", "patch"]},
]


def reviewed(*rules: dict[str, Any], incomplete: bool = False) -> dict[str, Any]:
    return {"resourceRules": list(rules), "nonResourceRules": [], "incomplete": incomplete}


def test_what_is_forbidden_is_told_by_namespace_and_what_a_rule_allows_of_one_object_does_not_count(
    reach: ModuleType, tmp_path: Path
) -> None:
    rules = {
        "ours": reviewed(ALL),
        "theirs": reviewed(READS, WRITES_ONE),
        "nobody-knows": reviewed(incomplete=True),
        "closed": reviewed(),
    }
    with api_server(200, nodes=1, rules=rules) as server:
        told = reach.forbidden(kubeconfig(tmp_path, server), 5, rules, NEEDS)
    assert told == [
        "theirs: create, patch deployments",
        "closed: get, list pods; get, create, patch deployments",
    ]


SECRETS = {
    "has-it": (200, "kubernetes.io/dockerconfigjson"),
    "has-an-old-one": (200, "kubernetes.io/dockercfg"),
    "has-another-kind": (200, "Opaque"),
    "has-none": (404, ""),
    "is-closed": (403, ""),
}


def test_a_namespace_without_the_secret_that_pulls_images_is_told_and_one_that_is_closed_is_not(
    reach: ModuleType, tmp_path: Path
) -> None:
    with api_server(200, nodes=1, secrets=SECRETS) as server:
        told = reach.without_pull_secret(kubeconfig(tmp_path, server), 5, SECRETS, "registry")
    assert told == ["has-another-kind", "has-none"]


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ({"major": "1", "minor": "33", "gitVersion": "v1.33.0"}, "1.33"),
        ({"major": "1", "minor": "29+", "gitVersion": "v1.29.4-of-others"}, "1.29"),
        ({}, ""),
    ],
)
def test_its_version_is_told(reach: ModuleType, tmp_path: Path, version: dict[str, str], told: str) -> None:
    with api_server(200, nodes=1, version=version) as server:
        assert reach.version(kubeconfig(tmp_path, server), 5) == told


@pytest.mark.parametrize(("version", "is_new"), [("1.29", False), ("1.30", True), ("1.100", True), ("", True)])
def test_one_that_is_too_old_is_refused_with_what_is_needed(version: str, is_new: bool) -> None:
    reached = {"kubernetes_app_reached": {"silence": "", "lacks": [], "without": [], "version": version}}
    problem = evaluated("production", "cluster", "athena_version_problem", **reached)
    assert (problem == "") is is_new
    assert is_new or problem.endswith("is Kubernetes 1.29; it must be 1.30 or newer.")


@pytest.mark.parametrize(("named", "told"), [("", []), ("registry", ["has-another-kind", "has-none"])])
def test_the_role_asks_for_it_where_one_is_named(tmp_path: Path, named: str, told: list[str]) -> None:
    show = {"ansible.builtin.debug": {"msg": "{{ kubernetes_app_reached.without | to_json }}"}}
    ask = {"ansible.builtin.include_role": {"name": "kubernetes_app", "tasks_from": "reach"}}
    rules = {namespace: reviewed(ALL) for namespace in SECRETS}
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [ask, show]}]
    with api_server(200, nodes=1, rules=rules, secrets=SECRETS) as server:
        variables = {
            "ansible_python_interpreter": sys.executable,
            "kubernetes_app_kubeconfig": kubeconfig(tmp_path, server),
            "kubernetes_app_namespaces": list(SECRETS),
            "kubernetes_app_pull_secret": named,
        }
        done = run_plays(tmp_path, plays, variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.dumps(told) in done.stdout
