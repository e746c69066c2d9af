"""What the role does to namespaces, and says where a secret is refused, by an API server of the test's own."""

import json
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from kubeconfigs import kubeconfig
from playing import run_plays
from serving import Answering, serving

VALUE = "c2VjcmV0LW9mLWEtdGVzdA=="


def kind(name: str, *, namespaced: bool) -> dict[str, Any]:
    plural, verbs = f"{name.lower()}s", ["get", "list", "patch"]
    return {"name": plural, "singularName": name.lower(), "namespaced": namespaced, "kind": name, "verbs": verbs}


KINDS = [kind("Namespace", namespaced=False), kind("Secret", namespaced=True)]
KNOWN: dict[str, Any] = {
    "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": KINDS},
    "/api/v1/namespaces": {"kind": "NamespaceList", "apiVersion": "v1", "metadata": {}, "items": []},
}
FORBIDDEN = {"kind": "Status", "reason": "Forbidden", "message": f"not {VALUE}", "code": 403}


def test_those_of_others_are_made_without_a_label_and_a_secret_that_is_refused_is_told_without_its_value(
    tmp_path: Path,
) -> None:
    applied: dict[str, Any] = {}

    class Cluster(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            missing = {"kind": "Status", "reason": "NotFound", "code": 404}
            self.tell(*((200, KNOWN[path]) if path in KNOWN else (404, missing)))

        def do_PATCH(self) -> None:
            wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if wanted["kind"] == "Secret":
                self.tell(403, FORBIDDEN)
            else:
                applied[wanted["metadata"]["name"]] = wanted["metadata"].get("labels")
                self.tell(200, wanted)

        def tell(self, status: int, content: dict[str, Any]) -> None:
            self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    secrets = [{"namespace": name, "name": "of-a-test", "values": {"it": VALUE}} for name in ("athena", "automation")]
    role = {"ansible.builtin.import_role": {"name": "kubernetes_app", "tasks_from": "secret"}}
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [role]}]
    with serving(Cluster) as address:
        variables = {
            "ansible_python_interpreter": sys.executable,
            "kubernetes_app_kubeconfig": kubeconfig(tmp_path, f"http://{address}"),
            "kubernetes_app_shared_namespaces": ["automation"],
            "kubernetes_app_secrets": secrets,
        }
        done = run_plays(tmp_path, plays, "-v", variables=variables)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert applied["automation"] is None
    assert applied["athena"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert "were not written: The API server refuses Secret athena/of-a-test: Forbidden" in said
    assert VALUE not in said
