"""Which secrets a release takes that nothing would make anew, before a rollback to it begins."""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from kubeconfigs import kubeconfig
from loading import ROOT
from playing import run_plays
from serving import Answering, serving

# What the API server knows: its versions and kinds, and the secrets that are there with the entries they have.
KINDS = [
    {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": ["get", "list"]},
]
KNOWN: dict[str, Any] = {
    "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": KINDS},
}
THERE = {"athena-admin/postgres-credentials": ["connection-string"], "athena/half": ["one"]}
APPLICATIONS = {
    "admin": {
        "namespace": "athena-admin",
        "secret_environment": {
            "DATABASE_URL": {"secret": "postgres-credentials", "key": "connection-string"},
            "ADMIN_API_TOKEN": {"secret": "admin-api-credentials", "key": "api-token"},
        },
    },
    "proxy": {
        "namespace": "athena",
        "secret_environment": {
            "REDIS_URL": {"secret": "redis-credentials", "key": "url"},
            "OTHER": {"secret": "half", "key": "other"},
        },
        "secret_files": {"/etc/athena/proxy-keys": {"secret": "proxy-api-keys", "key": "keys"}},
    },
}


class Cluster(Answering, BaseHTTPRequestHandler):
    """An API server with these secrets."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        status, content = (200, KNOWN[path]) if path in KNOWN else self.secret(path)
        self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    @staticmethod
    def secret(path: str) -> tuple[int, dict[str, Any]]:
        namespace, _, name = path.removeprefix("/api/v1/namespaces/").split("/")
        if (entries := THERE.get(f"{namespace}/{name}")) is None:
            return 404, {"kind": "Status", "reason": "NotFound", "code": 404}
        data = {entry: base64.b64encode(b"of a test").decode() for entry in entries}
        metadata = {"name": name, "namespace": namespace}
        return 200, {"kind": "Secret", "apiVersion": "v1", "metadata": metadata, "data": data}


def test_what_is_on_the_cluster_or_made_by_every_run_is_found_and_the_rest_is_told(tmp_path: Path) -> None:
    tasks = [
        {"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/cluster/find_secrets.yml")},
        {"ansible.builtin.debug": {"msg": "{{ athena_secrets_missing | to_json }}"}},
    ]
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]
    with serving(Cluster) as address:
        variables = {
            "ansible_python_interpreter": sys.executable,
            "athena_kubeconfig": kubeconfig(tmp_path, f"http://{address}"),
            "athena_cluster_secrets": [{"namespace": "athena-admin", "name": "admin-api-credentials", "values": {}}],
            "athena_redis_secrets": {"REDIS_URL": {"secret": "redis-credentials", "key": "url"}},
            "redis_namespace": "athena",
            "find_applications": APPLICATIONS,
        }
        done = run_plays(tmp_path, plays, variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.dumps(["athena/half/other", "athena/proxy-api-keys/keys"]) in done.stdout
