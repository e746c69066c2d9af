"""Several processes on one port: one proxy to callers and operators, whichever of them answers."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.proxy.engines import ollama_engine
from tests.proxy.plain import Line, post, until
from tests.proxy.standin import Heard, Registry, StandIn, backend
from tests.support.processes import Server, athena

BODY = {"model": "m", "prompt": "Once", "stream": False}


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that live."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def workers(
    log: Path, ollama_url: str, count: int = 2, *arguments: str, admin_url: str = "http://127.0.0.1:9"
) -> Iterator[Server]:
    """Run a proxy of several processes; in the end none of them may be left."""
    variables = {"ADMIN_API_URL": admin_url, "OLLAMA_URL": ollama_url, "PROXY_WORKERS": str(count)}
    variables["ADMIN_API_TOKEN"] = "a-token-of-these-tests"
    server = Server("proxy", log, variables, arguments=arguments)
    begun = children(server.process.pid)
    try:
        assert len(begun) == count
        yield server
    finally:
        server.kill()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in begun))


def ask(url: str, client: httpx.Client | None = None) -> str:
    """Ask for a reply over a connection of its own, so that either process may answer."""
    reply = (client or httpx).post(f"{url}/api/generate", json=BODY)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["response"])


def test_all_workers_answer_and_any_of_them_tells_the_metrics_of_all(tmp_path: Path) -> None:
    with StandIn(ollama_engine) as engine, workers(tmp_path / "log", engine.url) as server:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: ask(server.url), range(40))) == {"Hello there, caller."}
        for _ in range(4):  # whichever of them is asked
            until(lambda: len(_lines(server.url, "gen_ai_server_request_duration_seconds_count{", " 40.0")) == 1)
        assert len(_lines(server.url, "process_cpu_seconds_total{", "")) == 2


def _lines(url: str, start: str, end: str) -> list[str]:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return [line for line in lines if line.startswith(start) and line.endswith(end)]


def test_a_worker_that_dies_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    with StandIn(ollama_engine) as engine, workers(tmp_path / "log", engine.url) as server:
        before = children(server.process.pid)
        os.kill(before[0], signal.SIGKILL)
        for _ in range(20):
            assert ask(server.url)
        until(lambda: len(children(server.process.pid)) == 2, 10)
        assert before[1] in children(server.process.pid)
        until(lambda: server.events("worker_died"))
        died = server.events("worker_died")[0]
        assert died["pid"] == before[0]
        assert died["status"] == -signal.SIGKILL


class _OneByOne:
    """An engine that notes how many requests it has at once."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    async def __call__(self, heard: Heard) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        await ollama_engine(heard)
        self.now -= 1


@pytest.mark.slow
def test_the_limit_of_a_backend_holds_over_all_workers(tmp_path: Path) -> None:
    engine = _OneByOne()
    with StandIn(engine) as stand_in, workers(tmp_path / "log", stand_in.url) as server:
        with ThreadPoolExecutor(12) as pool:
            assert len(list(pool.map(lambda _: ask(server.url), range(12)))) == 12
        assert engine.most == 1


class _Holds:
    """An engine that answers when it is let."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()

    async def __call__(self, heard: Heard) -> None:
        waits = asyncio.ensure_future(heard.wait_until_left())
        goes = asyncio.ensure_future(self.goes_on.wait())
        await asyncio.wait([waits, goes], return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
        goes.cancel()
        if self.goes_on.is_set():
            await ollama_engine(heard)


@pytest.mark.slow
def test_the_queue_of_a_backend_is_as_long_over_all_workers_as_its_row_says(tmp_path: Path) -> None:
    holds = _Holds()
    with StandIn(holds) as engine:
        row = backend("m", "ollama", engine.url, max_concurrency=1, max_queue=5, timeout_seconds=60)
        with (
            Registry([row]) as registry,
            workers(tmp_path / "log", engine.url, admin_url=registry.url) as server,
            ThreadPoolExecutor(30) as pool,
        ):
            until(lambda: [heard.path for heard in registry.heard].count("/api/llm-backends") == 2)
            until(lambda: all(_knows_its_registry(server.url) for _ in range(10)))
            asked = [pool.submit(_status, server.url) for _ in range(30)]
            try:
                until(lambda: sum(one.done() for one in asked) >= 23, 10)
            finally:
                engine.loop.call_soon_threadsafe(holds.goes_on.set)
            statuses = [one.result(20) for one in asked]
    assert set(statuses) <= {200, 429, 503}
    assert 6 <= statuses.count(200) <= 7  # one is served and five wait; two workers may let in one each at once


def _knows_its_registry(url: str) -> bool:
    return bool(httpx.get(f"{url}/health").json()["configuration"]["complete"])


def _status(url: str) -> int:
    return httpx.post(f"{url}/api/generate", json=BODY, timeout=30).status_code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_parent_lets_running_requests_end(tmp_path: Path, number: int) -> None:
    holds = _Holds()
    with StandIn(holds) as engine, workers(tmp_path / "log", engine.url, 2, "--grace", "20") as server:
        with _asked(server, engine) as line:
            server.process.send_signal(number)
            until(lambda: _refuses(server.port))
            assert server.process.poll() is None
            engine.loop.call_soon_threadsafe(holds.goes_on.set)
            assert b"Hello there, caller." in line.rest()
        assert server.process.wait(10) == 0


def test_a_second_interrupt_ends_all_workers_at_once(tmp_path: Path) -> None:
    with StandIn(_Holds()) as engine, workers(tmp_path / "log", engine.url, 2, "--grace", "60") as server:
        with _asked(server, engine) as line:
            server.process.send_signal(signal.SIGINT)
            until(lambda: _refuses(server.port))
            server.process.send_signal(signal.SIGINT)
            assert line.rest() == b""
        assert server.process.wait(5) == 0


def _asked(server: Server, engine: StandIn) -> Line:
    line = Line(server.port, post("/api/generate", json.dumps(BODY).encode()))
    until(lambda: engine.heard)
    return line


@pytest.mark.slow
def test_workers_whose_parent_is_killed_end_by_themselves(tmp_path: Path) -> None:
    with StandIn(ollama_engine) as engine, workers(tmp_path / "log", engine.url) as server:
        server.kill()
        until(lambda: server.events("parent_gone"))


def test_workers_that_cannot_start_say_why_and_are_not_tried_for_ever(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("no key at all\n")
    done = athena("serve", "proxy", "--port", "0", "--workers", "2", PROXY_API_KEYS_FILE=str(keys))
    assert done.returncode == 1
    assert "keys" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_only_the_proxy_has_workers_and_their_number_is_checked() -> None:
    done = athena("serve", "orchestrator", "--workers", "2")
    assert done.returncode == 2
    assert "only the proxy" in done.stderr
    wrong = athena("serve", "proxy", PROXY_WORKERS="0")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("PROXY_WORKERS: ")


def _refuses(port: int) -> bool:
    try:
        Line(port).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it had not taken the connection when it closed
        return True
    return False
