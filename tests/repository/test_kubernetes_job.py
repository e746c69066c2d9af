"""A Job that is run to its end, and one that is given up on: nothing of it may run when the caller goes on."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubeconfigs import kubeconfig
from loading import load
from serving import Answering, serving

JOBS = "/apis/batch/v1/namespaces/ours/jobs"
PODS, EVENTS = "/api/v1/namespaces/ours/pods", "/api/v1/namespaces/ours/events"
ENDED_WELL = {"terminated": {"exitCode": 0}}
NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": "there is no such image"}}
MARKED, OURS = {"athena/exclusive": "true"}, {"app.kubernetes.io/name": "migrate"}
State = dict[str, Any]


@dataclass
class Cluster:
    """An API server with Jobs, each with one pod that is in a state and takes some questions to be gone."""

    begins_as: State
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, State] = field(default_factory=dict)
    ending: dict[str, int] = field(default_factory=dict)
    lingers: int = 3  # for so many questions a pod that is to end is still there
    asked: list[str] = field(default_factory=list)
    fails: Callable[[str], bool] = lambda _: False

    def make(self, name: str, state: State, labels: dict[str, str], *, ended: bool = False) -> None:
        conditions = [{"type": "Failed", "status": "True"}] if ended else []
        self.jobs[name] = {"metadata": {"name": name, "labels": labels}, "status": {"conditions": conditions}}
        self.pods[name] = state

    def answer(self, method: str, url: str, body: dict[str, Any]) -> tuple[int, Any]:
        path, query = urlsplit(url).path, {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.asked.append(f"{method} {path}")
        name = path.rpartition("/")[2]
        if method == "POST":
            return self.create(body["metadata"])
        if method == "DELETE":
            return self.delete(name, query["propagationPolicy"])
        if path in (JOBS, PODS, EVENTS):
            return 200, {"items": self.listed(path, query.get("labelSelector", ""))}
        if path.endswith("/log"):
            return 200, "what it said"
        return (200, self.jobs[name]) if name in self.jobs else (404, {"reason": "NotFound"})

    def create(self, metadata: dict[str, Any]) -> tuple[int, Any]:
        if metadata["name"] in self.jobs:
            return 409, {"reason": "AlreadyExists"}
        self.make(metadata["name"], self.begins_as, metadata["labels"])
        return 201, {"metadata": metadata}

    def listed(self, path: str, selector: str) -> list[State]:
        if path == PODS:
            return self.pods_of(selector.removeprefix("job-name="))
        wanted = dict(label.split("=") for label in selector.split(",") if label)
        jobs = self.jobs.values() if path == JOBS else ()
        return [job for job in jobs if wanted.items() <= job["metadata"]["labels"].items()]

    def delete(self, name: str, policy: str) -> tuple[int, Any]:
        if name not in self.jobs:
            return 404, {"reason": "NotFound"}
        if policy == "Background":
            del self.jobs[name], self.pods[name]
        else:
            assert policy == "Foreground"
            self.ending.setdefault(name, self.lingers)
        return 200, {}

    def pods_of(self, name: str) -> list[State]:
        if name in self.ending:
            self.ending[name] -= 1
            if self.ending[name] < 0:
                self.jobs.pop(name, None)
                self.pods.pop(name, None)
        if name not in self.pods:
            return []
        status = {"containerStatuses": [{"name": "it", "ready": False, "restartCount": 0, "image": "", "imageID": ""}]}
        status["containerStatuses"][0]["state"] = self.pods[name]
        return [{"metadata": {"name": f"{name}-pod"}, "status": status}]


@contextmanager
def answering(cluster: Cluster) -> Iterator[str]:
    class Handler(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.pass_on()

        def do_POST(self) -> None:
            self.pass_on()

        def do_DELETE(self) -> None:
            self.pass_on()

        def pass_on(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            status, content = cluster.answer(self.command, self.path, body)
            if cluster.fails(f"{self.command} {urlsplit(self.path).path}"):
                status, content = 503, {"reason": "of a test"}
            encoded = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.answer(status, encoded, {"Content-Type": "application/json"})

    with serving(Handler) as address:
        yield f"http://{address}"


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load("roles/kubernetes_app/action_plugins/kubernetes_job.py")
    for pause in ("POLL_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(module, pause, 0.01)
    return module


def runner(job: ModuleType, folder: Path, server: str, patience: int = 20) -> Any:
    definition = {"metadata": {"name": "migrate-1", "namespace": "ours", "labels": {**OURS, **MARKED}}}
    return job.Runner(kubeconfig(folder, server), definition, patience)


def test_a_job_that_ends_well_is_told_and_gone(job: ModuleType, tmp_path: Path) -> None:
    with answering(cluster := Cluster(ENDED_WELL)) as server:
        told = runner(job, tmp_path, server).run()
    assert told == (0, "what it said", "")
    assert cluster.jobs == {}


def test_one_whose_command_fails_stays_for_whoever_looks_into_it(job: ModuleType, tmp_path: Path) -> None:
    with answering(cluster := Cluster({"terminated": {"exitCode": 3, "message": "why"}})) as server:
        told = runner(job, tmp_path, server).run()
    assert told == (3, "what it said", "why")
    assert list(cluster.jobs) == ["migrate-1"]


def test_one_whose_image_cannot_be_pulled_is_gone_with_its_pod_before_that_is_told(
    job: ModuleType, tmp_path: Path
) -> None:
    with answering(cluster := Cluster(NO_IMAGE)) as server:
        told = runner(job, tmp_path, server).run()
    assert told == (-1, "", "ImagePullBackOff: there is no such image")
    assert (cluster.jobs, cluster.pods) == ({}, {})
    assert cluster.asked.count(f"GET {PODS}") > cluster.lingers


def test_one_that_does_not_end_in_time_is_ended(job: ModuleType, tmp_path: Path) -> None:
    with answering(cluster := Cluster({"running": {}})) as server:
        told = runner(job, tmp_path, server, patience=1).run()
    assert told == (-1, "", "it has not ended in time; the cluster does not say why")
    assert (cluster.jobs, cluster.pods) == ({}, {})


def test_an_api_server_that_fails_now_and_then_is_asked_again(job: ModuleType, tmp_path: Path) -> None:
    seen: list[str] = []

    def fails_first(asked: str) -> bool:
        seen.append(asked)
        return seen.count(asked) == 1

    # Of the first creation the answer alone is lost: the second finds it made.
    with answering(cluster := Cluster(ENDED_WELL, fails=fails_first)) as server:
        told = runner(job, tmp_path, server).run()
    assert told.rc == 0
    assert cluster.asked.count(f"POST {JOBS}") == 2
    assert cluster.jobs == {}


def test_where_it_fails_for_too_long_the_job_does_not_go_on(job: ModuleType, tmp_path: Path) -> None:
    cluster = Cluster({"running": {}})
    cluster.fails = lambda asked: asked == f"GET {PODS}" and not cluster.ending
    with answering(cluster) as server, pytest.raises(job.AnsibleActionFail, match="refused or did not answer"):
        runner(job, tmp_path, server, patience=1).run()
    assert (cluster.jobs, cluster.pods) == ({}, {})


def test_one_that_cannot_be_ended_is_told_with_the_remedy(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "ENDING_SECONDS", 0.2)
    with answering(Cluster(NO_IMAGE, lingers=10_000)) as server, pytest.raises(job.AnsibleActionFail) as failure:
        runner(job, tmp_path, server).run()
    for words in ("ImagePullBackOff", "migrate-1 may still run", "kubectl --namespace ours delete job migrate-1"):
        assert words in str(failure.value)


def test_what_a_killed_run_left_is_ended_and_nothing_else(job: ModuleType, tmp_path: Path) -> None:
    cluster = Cluster(ENDED_WELL)
    cluster.make("left", {"running": {}}, {**OURS, **MARKED})
    cluster.make("left-and-over", {"terminated": {"exitCode": 1}}, {**OURS, **MARKED}, ended=True)
    cluster.make("a-look", {"running": {}}, OURS)
    cluster.make("another", {"running": {}}, {"app.kubernetes.io/name": "register", **MARKED})
    with answering(cluster) as server:
        runner(job, tmp_path, server).end_those("app.kubernetes.io/name=migrate,athena/exclusive=true")
    assert sorted(cluster.jobs) == sorted(cluster.pods) == ["a-look", "another", "left-and-over"]
