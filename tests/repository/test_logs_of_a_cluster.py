"""The logs of pods, some of which have none."""

import json
import sys
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import yaml
from kubeconfigs import kubeconfig
from loading import ROOT
from playing import run_plays
from serving import Answering, serving

PODS_OF = {
    "athena-admin/athena-admin-backend": ["admin-1"],
    "athena/athena-model-proxy": ["proxy-old", "proxy-new"],
    "athena/athena-orchestrator": ["orchestrator-gone", "orchestrator-1"],
    "athena/redis": ["redis-1"],
}
WAITS = 'container "athena-model-proxy" in pod "proxy-new" is waiting to start: trying and failing to pull image'
KIND = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]}
KNOWN: dict[str, Any] = {
    "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [KIND, {**KIND, "name": "pods/log", "verbs": ["get"]}],
    },
    "/api/v1/namespaces/kube-system": {"kind": "Namespace", "apiVersion": "v1", "metadata": {"uid": "of-a-test"}},
    "/api/v1/nodes": {"kind": "NodeList", "apiVersion": "v1", "items": [{"metadata": {"name": "node-1"}}]},
}


class Cluster(Answering, BaseHTTPRequestHandler):
    """An API server with pods, of which one waits for its image and one is gone when its log is asked for."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path in KNOWN:
            self.tell(200, KNOWN[path])
        elif path.endswith("/log"):
            self.log_of(path.split("/")[-2])
        else:
            self.pods(path.split("/")[4], query.rpartition("name%3D")[2])

    def pods(self, namespace: str, name: str) -> None:
        pod = {"kind": "Pod", "apiVersion": "v1"}
        pods = [{**pod, "metadata": {"name": one, "namespace": namespace}} for one in PODS_OF[f"{namespace}/{name}"]]
        self.tell(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods})

    def log_of(self, pod: str) -> None:
        if pod == "proxy-new":
            self.tell(400, {"kind": "Status", "reason": "BadRequest", "code": 400, "message": WAITS})
        elif pod == "orchestrator-gone":
            self.tell(404, {"kind": "Status", "reason": "NotFound", "code": 404, "message": "not found"})
        elif pod == "redis-1":
            self.answer(200)
        else:
            self.answer(200, f"what {pod} did\n".encode(), {"Content-Type": "text/plain"})

    def tell(self, status: int, content: dict[str, Any]) -> None:
        self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `logs` says of that cluster."""
    folder = tmp_path_factory.mktemp("logs")
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"cluster": {"hosts": {"localhost": local}}}))
    (folder / "group_vars").symlink_to(ROOT / "group_vars")
    with serving(Cluster) as address:
        variables = {"athena_kubeconfig": kubeconfig(folder, f"http://{address}"), "athena_state_dir": str(folder)}
        plays = [{"ansible.builtin.import_playbook": str(ROOT / "playbooks/logs.yml")}]
        done = run_plays(folder, plays, inventory=folder / "hosts.yml", variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pods_that_have_no_log_keep_nobody_from_those_of_the_others(said: str) -> None:
    for pod in ("athena-admin/admin-1", "athena/proxy-old", "athena/orchestrator-1"):
        assert f"==> {pod} <==\nwhat {pod.partition('/')[2]} did\n" in said
    assert "==> athena/redis-1 <==\n" in said


def test_in_place_of_their_lines_it_is_told_why_there_are_none(said: str) -> None:
    told = "Unable to retrieve log from Pod due to: "
    assert f"==> athena/proxy-new <==\nno log: {told}{WAITS}" in said
    assert "==> athena/orchestrator-gone <==\nno log: Pod athena/orchestrator-gone not found." in said
    assert said.count("no log: ") == 2
