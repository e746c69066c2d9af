"""What is said of a cluster that does not answer, does not let us in, or is empty."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from types import ModuleType

import pytest
from loading import load


@pytest.fixture(scope="module")
def reach() -> ModuleType:
    return load("roles/kubernetes_app/action_plugins/kubernetes_reach.py")


def kubeconfig(folder: Path, server: str) -> str:
    """Write the file that says where a cluster is."""
    file = folder / "kubeconfig"
    named = {"name": "it"}
    file.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "it",
                "contexts": [{**named, "context": {"cluster": "it", "user": "it"}}],
                "clusters": [{**named, "cluster": {"server": server}}],
                "users": [{**named, "user": {"token": "of-a-test"}}],
            }
        )
    )
    return str(file)


@contextmanager
def api_server(status: int, nodes: int = 0, *, hangs: bool = False) -> Iterator[str]:
    """An API server that lists its nodes, refuses to, or takes requests and never answers."""
    ended = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if hangs:
                ended.wait(30)
                return
            items = [{"metadata": {"name": f"node-{number}"}} for number in range(nodes)]
            body = json.dumps({"kind": "NodeList", "apiVersion": "v1", "items": items}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        ended.set()
        listening.shutdown()


def test_a_cluster_with_a_node_answers(reach: ModuleType, tmp_path: Path) -> None:
    with api_server(200, nodes=1) as server:
        assert reach.silence(kubeconfig(tmp_path, server), 5) == ""


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
