"""What is said of a service that does not answer a question, by the role itself with a service of the test's own."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from playing import run_plays
from serving import Answering, serving

KEY = "athena-key-of-a-test"
ANSWER = {"answer": "4", "total_ms": 1, "steps": [{"name": "answer"}]}
PROBLEM = "application/problem+json"


@contextmanager
def service(replies: dict[str, tuple[int, str, str]]) -> Iterator[str]:
    """Answer each path with a status, a kind of content and a content, in which KEY stands for what was sent as one."""

    class Handler(Answering, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, kind, content = replies[self.path]
            body = content.replace("KEY", self.headers.get("Authorization", "")).encode()
            self.answer(status, body, {"Content-Type": kind})

    with serving(Handler) as address:
        yield f"http://{address}"


def verify(folder: Path, url: str) -> str:
    """Ask the question once, and return all that was said, however much Ansible tells."""
    role = {"ansible.builtin.import_role": {"name": "verification"}}
    variables: dict[str, Any] = {
        "ansible_python_interpreter": sys.executable,
        "verification_orchestrator_url": url,
        "verification_proxy_url": url,
        "verification_proxy_key": KEY,
        "verification_model": "tiny",
        "verification_patience": 0,
    }
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables, "tasks": [role]}
    done = run_plays(folder, [play])
    assert done.returncode != 0
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((503, PROBLEM, json.dumps({"title": "No backend", "detail": "mlx: refused"})), "with 503: mlx: refused"),
        ((502, "text/html", "<h1>Bad gateway</h1>"), "with 502: <h1>Bad gateway</h1>"),
    ],
    ids=["a problem", "something in between"],
)
def test_what_the_orchestrator_says_in_place_of_an_answer_is_told(
    tmp_path: Path, reply: tuple[int, str, str], words: str
) -> None:
    with service({"/query": reply}) as url:
        said = verify(tmp_path, url)
    assert f"{url} answered a question {words}" in said


def test_what_the_proxy_says_is_told_without_the_key_that_it_was_shown(tmp_path: Path) -> None:
    refused = (401, "application/json", json.dumps({"error": "no such key: KEY"}))
    with service({"/query": (200, "application/json", json.dumps(ANSWER)), "/api/chat": refused}) as url:
        said = verify(tmp_path, url)
    assert f"{url} answered a question with 401: no such key: Bearer …" in said
    assert KEY not in said


def test_nothing_that_answers_at_all_is_told_as_well(tmp_path: Path) -> None:
    with service({}) as url:
        pass
    said = verify(tmp_path, url)
    assert f"{url} answered a question with nothing:" in said
    assert "Connection refused" in said
