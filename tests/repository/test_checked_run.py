"""A command on a cluster in check mode: it runs where nothing that its pod needs is only pretended to be there."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from kubeconfigs import kubeconfig
from playing import run_plays
from serving import Answering, serving

BUILT = f"registry.example.internal/athena@sha256:{'1' * 64}"
STILL_TO_BE_BUILT = f"registry.example.internal/athena@sha256:{'0' * 64}"
OURS = "/api/v1/namespaces/ours"
JOBS = "/apis/batch/v1/namespaces/ours/jobs"
ACCOUNT = f"{OURS}/serviceaccounts/migrate"
FILES = f"{OURS}/configmaps/migrate"


def group(name: str, version: str = "v1") -> dict[str, Any]:
    versions = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [versions], "preferredVersion": versions}


def resources(version: str, *kinds: tuple[str, str]) -> dict[str, Any]:
    verbs = ["get", "list", "patch", "create", "delete"]
    rows = [
        {"name": plural, "singularName": "", "namespaced": kind != "Namespace", "kind": kind, "verbs": verbs}
        for kind, plural in kinds
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": rows}


CORE = [
    *(("Namespace", "namespaces"), ("Secret", "secrets")),
    *(("ServiceAccount", "serviceaccounts"), ("ConfigMap", "configmaps")),
]
KNOWN: dict[str, Any] = {
    "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [group("apps"), group("networking.k8s.io"), group("batch")],
    },
    "/api/v1": resources("v1", *CORE),
    "/apis/apps/v1": resources("apps/v1", ("Deployment", "deployments")),
    "/apis/networking.k8s.io/v1": resources("networking.k8s.io/v1", ("NetworkPolicy", "networkpolicies")),
    "/apis/batch/v1": resources("batch/v1", ("Job", "jobs")),
    "/api/v1/namespaces/ours": {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "ours"}},
    f"{OURS}/secrets/database": {
        "kind": "Secret",
        "apiVersion": "v1",
        "metadata": {"name": "database", "namespace": "ours", "resourceVersion": "1"},
        "data": {"url": "eA=="},
    },
}


@contextmanager
def cluster(made: list[str], *there: str) -> Iterator[str]:
    """An API server with these objects beside the namespace and its secret; it notes the Jobs that are made."""

    class Cluster(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path in there:
                self.tell(200, {"kind": "it", "apiVersion": "v1", "metadata": {"name": "migrate"}})
            elif path.endswith("/pods"):
                ended = {"state": {"terminated": {"exitCode": 0}}, "name": "it", "ready": False, "restartCount": 0}
                status = {"containerStatuses": [{**ended, "image": "", "imageID": ""}]}
                self.tell(200, {"items": [{"metadata": {"name": "a-pod"}, "status": status}]})
            elif path.endswith("/log"):
                self.answer(200, b"what it said")
            else:
                missing = {"kind": "Status", "reason": "NotFound", "code": 404}
                self.tell(*((200, KNOWN[path]) if path in KNOWN else (404, missing)))

        def do_PATCH(self) -> None:
            assert "dryRun=All" in self.path
            self.tell(200, self.sent())

        def do_POST(self) -> None:
            made.append(self.path.partition("?")[0])
            self.tell(201, self.sent())

        def do_DELETE(self) -> None:
            self.tell(200, {})

        def sent(self) -> Any:
            return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

        def tell(self, status: int, content: Any) -> None:
            self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    with serving(Cluster) as address:
        yield f"http://{address}"


def checked(folder: Path, image: str, *there: str) -> tuple[list[str], str]:
    """Run a command in check mode where these objects are there; return the Jobs that were made, and what was said."""
    made: list[str] = []
    role = {"ansible.builtin.import_role": {"name": "kubernetes_app", "tasks_from": "run"}}
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [role]}]
    with cluster(made, *there) as server:
        variables = {
            "ansible_python_interpreter": sys.executable,
            "kubernetes_app_kubeconfig": kubeconfig(folder, server),
            "kubernetes_app_shared_namespaces": ["ours"],
            "kubernetes_app_name": "migrate",
            "kubernetes_app_namespace": "ours",
            "kubernetes_app_image": image,
            "kubernetes_app_arguments": ["athena", "migrate", "--show"],
            "kubernetes_app_secret_environment": {"DATABASE_URL": {"secret": "database", "key": "url"}},
            "kubernetes_app_files": {"/etc/athena/database-ca.crt": "of a test"},
            "kubernetes_app_reads_only": True,
            "kubernetes_app_patience": 10,
        }
        done = run_plays(folder, plays, "--check", variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return made, done.stdout


def test_it_runs_where_everything_is_there(tmp_path: Path) -> None:
    made, said = checked(tmp_path, BUILT, ACCOUNT, FILES)
    assert made == [JOBS]
    assert "is not known" not in said


@pytest.mark.parametrize(
    ("image", "there", "wants"),
    [
        (BUILT, (FILES,), "there is ServiceAccount ours/migrate"),
        (BUILT, (ACCOUNT,), "there is ConfigMap ours/migrate"),
        (STILL_TO_BE_BUILT, (ACCOUNT, FILES), "there is its image"),
        (STILL_TO_BE_BUILT, (), "there is ServiceAccount ours/migrate, ConfigMap ours/migrate, its image"),
    ],
    ids=["no account", "no files", "no image", "nothing"],
)
def test_it_does_not_where_no_pod_would_start_and_what_it_would_say_is_left_open(
    tmp_path: Path, image: str, there: tuple[str, ...], wants: str
) -> None:
    made, said = checked(tmp_path, image, *there)
    assert made == []
    assert f"What `athena migrate --show` would say is not known: it cannot run before {wants}\n" in said
