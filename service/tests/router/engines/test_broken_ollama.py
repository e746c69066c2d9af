"""How a real Ollama tells that a reply broke off in the middle."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from athena.router.dialects import codec
from athena.router.errors import BackendError, FailureKind
from athena.router.types import Dialect, Operation
from tests.engines.server import EngineServer


def kill_runner(server: EngineServer) -> None:
    """Kill the process that holds the model, a child of the server."""
    tasks = Path(f"/proc/{server.pid}/task").iterdir()
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    assert children
    for child in children:
        os.kill(int(child), signal.SIGKILL)


@pytest.mark.engine
def test_an_ollama_whose_model_dies_says_so_in_a_line_under_status_200(ollama_server: EngineServer) -> None:
    ollama_server.ask("ready?")
    body = {"model": ollama_server.model, "prompt": "Once", "options": {"num_predict": 100_000, "temperature": 0}}
    reader = codec(Dialect.OLLAMA).reader(Operation.GENERATE)
    watch = codec(Dialect.OLLAMA).watch(Operation.GENERATE)
    with httpx.stream("POST", f"{ollama_server.url}/api/generate", json=body, timeout=60) as reply:
        assert reply.status_code == 200
        pieces = reply.iter_raw()
        first = next(pieces)
        assert watch.feed(first)
        assert reader.feed(first)
        kill_runner(ollama_server)
        rest = b"".join(pieces)
    with pytest.raises(BackendError) as heard:
        reader.feed(rest)
    with pytest.raises(BackendError) as seen:
        watch.feed(rest)
    assert (heard.value.kind, seen.value.kind) == (FailureKind.STATUS, FailureKind.STATUS)
    assert heard.value.detail == seen.value.detail
    ollama_server.ask("It loads the model again.")
