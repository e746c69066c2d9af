"""The end of the server: graceful while callers wait, certain when they take too long."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from athena.ending import Ending
from tests.proxy.engines import hangs
from tests.proxy.plain import Line, Plain, get, plain_server, post, until
from tests.proxy.standin import StandIn
from tests.support.processes import Server
from tests.support.prompt_server import Serving


def stopping(serving: Serving, grace: float, wind_down: float = 0.0) -> "Future[None]":
    """Begin the server's end."""
    ending = Ending(wind_down_seconds=wind_down, grace_seconds=grace)
    ended = asyncio.run_coroutine_threadsafe(serving.server.stop(ending), serving.loop)
    until(lambda: serving.server.winding_down if wind_down else serving.server.draining)
    return ended


@pytest.fixture
def served() -> Iterator[tuple[Plain, Serving]]:
    """A server, and its application."""
    with plain_server() as served:
        yield served


def test_what_is_being_answered_ends_in_its_own_time_and_idle_connections_at_once(
    served: tuple[Plain, Serving],
) -> None:
    application, serving = served
    with Line(serving.port, get("/now")) as idle, Line(serving.port) as unused, Line(serving.port) as waiting:
        idle.receive(b"/now")
        waiting.send(get("/wait"))
        until(lambda: len(application.served) == 2)
        ended = stopping(serving, 5)
        assert idle.rest() == unused.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            Line(serving.port)
        assert not ended.done()
        application.let_go(serving)
        answer = waiting.rest()
        assert answer.endswith(b"waited")
        assert b"\r\nconnection: close\r\n" in answer
        ended.result(2)


def test_who_calls_while_it_winds_down_is_answered_and_told_that_it_is_the_last_answer(
    served: tuple[Plain, Serving],
) -> None:
    _, serving = served
    with Line(serving.port, get("/now")) as kept, Line(serving.port) as unused:
        kept.receive(b"/now")
        ended = stopping(serving, 5, wind_down=1)
        with Line(serving.port, get("/now")) as new:
            kept.send(get("/now"))
            for line in kept, new:
                answer = line.rest()
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert b"\r\nconnection: close\r\n" in answer
        assert not ended.done()
        assert unused.rest() == b""
        ended.result(2)


def test_a_request_that_comes_in_after_the_signal_is_refused(served: tuple[Plain, Serving]) -> None:
    application, serving = served
    with Line(serving.port, get("/now")[:20]) as late, Line(serving.port, get("/wait")) as waiting:
        until(lambda: application.served)
        ended = stopping(serving, 5)
        late.send(get("/now")[20:])
        answer = late.rest()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nconnection: close\r\n" in answer
        assert b"\r\nretry-after: 1\r\n" in answer
        application.let_go(serving)
        assert waiting.rest().endswith(b"waited")
        ended.result(2)
    assert len(application.served) == 1


def test_what_takes_too_long_is_broken_off_though_its_caller_does_not_read(served: tuple[Plain, Serving]) -> None:
    application, serving = served
    with Line(serving.port, get("/wait")) as waiting, Line(serving.port, get("/flood")):
        until(lambda: any(connection.paused for connection in list(serving.server.connections)))
        ended = stopping(serving, 0.1)
        assert waiting.rest() == b""
        ended.result(3)
    assert sorted(application.cancelled) == ["", "shutdown"]
    assert not serving.server.connections


@contextmanager
def _proxy(log: Path, ollama_url: str, *arguments: str) -> Iterator[Server]:
    variables = {"ADMIN_API_URL": "http://127.0.0.1:9", "OLLAMA_URL": ollama_url}
    server = Server("proxy", log, variables, arguments=arguments)
    try:
        yield server
    finally:
        server.kill()


def _prompt(server: Server) -> Line:
    return Line(
        server.port, post("/api/generate", json.dumps({"model": "m", "prompt": "Hi", "stream": False}).encode())
    )


def test_the_process_tells_callers_that_outstay_its_grace_and_a_second_interrupt_ends_it_at_once(
    tmp_path: Path,
) -> None:
    with StandIn(hangs) as engine:
        with _proxy(tmp_path / "first", engine.url, "--grace", "0") as server, _prompt(server) as line:
            until(lambda: engine.heard)
            server.process.send_signal(signal.SIGTERM)
            answer = line.rest()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert "shut down" in json.loads(answer.split(b"\r\n\r\n")[1])["error"]
            assert server.process.wait(5) == 0
        with _proxy(tmp_path / "second", engine.url, "--grace", "60") as server, _prompt(server) as line:
            until(lambda: len(engine.heard) == 2)
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.2)
            assert server.process.poll() is None
            server.process.send_signal(signal.SIGINT)
            assert line.rest() == b""
            assert server.process.wait(5) == 0
