"""An autoscaler that is declared no longer, and is still there because a run was killed before it took it away."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from kubeconfigs import kubeconfig
from kubernetes_api import known
from playing import run_plays
from serving import Answering, serving

Objects = dict[str, dict[str, Any]]
KNOWN = known(
    {
        "v1": [("namespaces", "Namespace"), ("serviceaccounts", "ServiceAccount")],
        "apps/v1": [("deployments", "Deployment")],
        "autoscaling/v2": [("horizontalpodautoscalers", "HorizontalPodAutoscaler")],
    }
)
IMAGE = f"registry.example.internal/athena@sha256:{'0' * 64}"
AUTOSCALER = "horizontalpodautoscalers/web"
# Applied by a run that was killed right after: the count of pods is ours again.
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "web",
        "namespace": "athena",
        "managedFields": [{"manager": "athena", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}],
    },
    "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "web", "image": IMAGE}]}}},
}
SCALING: dict[str, Any] = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "web", "namespace": "athena"},
}


@contextmanager
def api_server(there: Objects) -> Iterator[str]:
    """An API server with these objects, by PLURAL/NAME, and what becomes of them."""

    class Handler(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = KNOWN.get(path) or there.get(self.named())
            missing = {"kind": "Status", "reason": "NotFound", "code": 404}
            self.tell(200 if found else 404, found or missing)

        def do_PATCH(self) -> None:
            wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if "dryRun" not in self.path:
                there[self.named()] = wanted
            self.tell(200, wanted)

        def do_DELETE(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.tell(200, there.pop(self.named()))

        def named(self) -> str:
            return "/".join(self.path.partition("?")[0].split("/")[-2:])

        def tell(self, status: int, content: dict[str, Any]) -> None:
            self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    with serving(Handler) as address:
        yield f"http://{address}"


def enter(folder: Path, there: Objects, entry: str, autoscaling: dict[str, int]) -> dict[str, Any]:
    """Have the role look at the application, or bring it to what is declared; return the state that it tells."""
    file = folder / "state.json"
    role = {"ansible.builtin.include_role": {"name": "kubernetes_app", "tasks_from": entry}}
    told = {"content": "{{ kubernetes_app_state | default({}) | to_json }}", "dest": str(file), "mode": "0600"}
    tasks = [role, {"ansible.builtin.copy": told}]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    with api_server(there) as url:
        variables = {
            "ansible_python_interpreter": sys.executable,
            "kubernetes_app_kubeconfig": kubeconfig(folder, url),
            "kubernetes_app_namespace": "athena",
            "kubernetes_app_name": "web",
            "kubernetes_app_image": IMAGE,
            "kubernetes_app_port": 8080,
            "kubernetes_app_autoscaling": autoscaling,
            "kubernetes_app_templates": ["service_account.yaml.j2"],  # all that matters here is beside it
            "kubernetes_app_is_rolled_out": True,
        }
        done = run_plays(folder, [play], variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    state: dict[str, Any] = json.loads(file.read_text())
    return state


@pytest.fixture
def there() -> Objects:
    """What the cluster has: the application as declared, and an autoscaler."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "athena"}}
    return {"namespaces/athena": namespace, "deployments/web": DEPLOYMENT, AUTOSCALER: SCALING}


def test_it_is_drift_and_the_next_deployment_takes_it_away(tmp_path: Path, there: Objects) -> None:
    words = "it has an autoscaler, which is not declared"
    assert words in enter(tmp_path, there, "state", {})["drift"]
    enter(tmp_path, there, "main", {})
    assert AUTOSCALER not in there
    assert words not in enter(tmp_path, there, "state", {})["drift"]


def test_one_that_is_declared_stays(tmp_path: Path, there: Objects) -> None:
    declared = {"min": 2, "max": 4, "cpu_percent": 70}
    assert [words for words in enter(tmp_path, there, "state", declared)["drift"] if "autoscaler" in words] == []
    assert AUTOSCALER in there
