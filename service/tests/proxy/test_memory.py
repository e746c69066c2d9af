"""What the proxy lets go of by itself: its collector comes rarely, so what it alone could free stays for long.

And what the proxy tells of the requests that it holds.
"""

import gc
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from athena.proxy.server.connection import Connection
from athena.proxy.server.exchange import Exchange
from athena.router.call import Call
from tests.proxy.conftest import Run, StartProxy
from tests.proxy.engines import openai_chunk, openai_engine, sse
from tests.proxy.plain import Line, get, plain_server, post, until
from tests.proxy.standin import Heard, backend

BODY = 300 * 1024
LARGE_PROMPT = "p" * 1_000_000


@pytest.fixture(autouse=True)
def _no_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is freed but what nobody refers to, and nothing is left of the tests before."""
    monkeypatch.setattr("athena.proxy.app._COLLECT_SECONDS", 3600.0)
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(*types: type) -> int:
    """Return how many objects of exactly these types there are."""
    return sum(1 for one in gc.get_objects() if type(one) in types)


@contextmanager
def nothing_stays_of(*types: type) -> Iterator[None]:
    """Fail unless there are as many objects of these types afterwards as before."""
    before = alive(*types)
    yield
    until(lambda: alive(*types) <= before, 2)


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_callers_who_leave_in_the_middle_of_a_body_leave_nothing_behind(framing: str) -> None:
    if framing == "chunked":
        sent = get("/echo", "transfer-encoding: chunked").replace(b"GET", b"POST")
        sent += b"%x\r\n%b\r\n" % (BODY, b"b" * BODY)
    else:
        sent = post("/echo", b"b" * (BODY + 1))[:-1]
    with plain_server() as (application, serving):
        with nothing_stays_of(Exchange, Connection):
            with ExitStack() as callers:
                for _ in range(50):
                    callers.enter_context(Line(serving.port, sent))
                until(lambda: len(serving.server.connections) == 50)
                until(lambda: alive(Exchange) >= 50)
            until(lambda: not serving.server.connections)
        assert not application.served


def test_a_body_that_is_refused_leaves_nothing_behind() -> None:
    with plain_server() as (application, serving), nothing_stays_of(Exchange, Connection):
        for _ in range(5):
            with Line(serving.port, post("/echo", b"b" * BODY)[:-1] + b"b" + b"what?\r\n\r\n") as line:
                assert b"HTTP/1.1 400 " in line.rest()
        until(lambda: not serving.server.connections)
        assert len(application.refused) == 5
        application.served.clear()


async def fails(heard: Heard) -> None:
    """Serve nothing."""
    await heard.answer(b'{"error": {"message": "out of memory"}}', status=500)


def asking(prompt: str = LARGE_PROMPT, *, stream: bool = False) -> bytes:
    """Return the body of a chat."""
    return json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": prompt}]}).encode()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"], ids=["passed", "translated"])
def test_a_prompt_that_was_moved_to_another_backend_is_not_kept_once_it_is_answered(
    stand_in: Run, proxy_for: StartProxy, path: str, stream: bool
) -> None:
    first, second = stand_in(fails), stand_in(openai_engine)
    url = proxy_for(backend("m", "openai", first.url), backend("m", "openai", second.url, priority=1))
    with nothing_stays_of(Call), httpx.Client() as client:
        for _ in range(3):
            assert client.post(url + path, content=asking(stream=stream)).status_code == 200
    assert first.heard
    assert len(second.heard) == 3


def test_a_prompt_that_no_backend_could_answer_is_not_kept(stand_in: Run, proxy_for: StartProxy) -> None:
    engine = stand_in(fails)
    url = proxy_for(backend("m", "openai", engine.url))
    with nothing_stays_of(Call):
        assert httpx.post(f"{url}/v1/chat/completions", content=asking()).status_code == 503
    assert engine.heard


class Holds:
    """An engine that begins a stream and never ends it."""

    async def __call__(self, heard: Heard) -> None:
        """Write one token."""
        await heard.start("text/event-stream")
        await heard.chunk(sse(openai_chunk(heard, "Hello")))
        await heard.wait_until_left()


def test_a_prompt_that_found_the_queue_full_is_not_kept(stand_in: Run, proxy_for: StartProxy) -> None:
    engine = stand_in(Holds())
    url = proxy_for(backend("m", "openai", engine.url, max_concurrency=1, max_queue=0))
    path = f"{url}/v1/chat/completions"
    with httpx.stream("POST", path, content=asking("short", stream=True)) as running:
        assert running.status_code == 200
        with nothing_stays_of(Call):
            for _ in range(5):
                assert httpx.post(path, content=asking()).status_code in {429, 503}
    assert len(engine.heard) == 1


async def breaks_off(heard: Heard) -> None:
    """Write one token and close."""
    await heard.start("text/event-stream")
    await heard.chunk(sse(openai_chunk(heard, "Hello")))
    heard.close()


def test_a_prompt_whose_stream_broke_off_is_not_kept(stand_in: Run, proxy_for: StartProxy) -> None:
    engine = stand_in(breaks_off)
    url = proxy_for(backend("m", "openai", engine.url))
    with nothing_stays_of(Call), pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{url}/v1/chat/completions", content=asking(stream=True))


def test_a_prompt_whose_caller_has_left_is_not_kept(stand_in: Run, proxy_for: StartProxy) -> None:
    engine = stand_in(Holds())
    url = proxy_for(backend("m", "openai", engine.url))
    port = int(url.rpartition(":")[2])
    with nothing_stays_of(Call), Line(port, post("/v1/chat/completions", asking(stream=True))) as line:
        line.receive(b"\n\n\r\n")
        assert alive(Call) == 1


def test_a_prompt_whose_caller_has_left_the_queue_is_not_kept(stand_in: Run, proxy_for: StartProxy) -> None:
    engine = stand_in(Holds())
    url = proxy_for(backend("m", "openai", engine.url, max_concurrency=1, max_queue=5))
    path = "/v1/chat/completions"
    with httpx.stream("POST", url + path, content=asking("short", stream=True)) as running:
        assert running.status_code == 200
        with nothing_stays_of(Call), Line(int(url.rpartition(":")[2]), post(path, asking(stream=True))):
            until(lambda: alive(Call) == 2)


async def never_begins(heard: Heard) -> None:
    """Answer nothing."""
    await heard.wait_until_left()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_prompt_whose_caller_has_left_before_the_first_token_is_not_kept(
    stand_in: Run, proxy_for: StartProxy, stream: bool
) -> None:
    engine = stand_in(never_begins)
    url = proxy_for(backend("m", "openai", engine.url))
    port = int(url.rpartition(":")[2])
    with nothing_stays_of(Call), Line(port, post("/v1/chat/completions", asking(stream=stream))):
        until(lambda: bool(engine.heard))


def tasks(url: str) -> float:
    """Return the gauge of what the event loop has to do."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("athena_event_loop_tasks"))


def test_the_gauge_of_tasks_counts_the_requests_in_progress(stand_in: Run, proxy_for: StartProxy) -> None:
    engine = stand_in(Holds())
    url = proxy_for(backend("m", "openai", engine.url, max_concurrency=20))
    path, body = f"{url}/v1/chat/completions", asking("short", stream=True)
    before = tasks(url)
    with httpx.Client() as client, ExitStack() as streams, ThreadPoolExecutor(20) as pool:
        opened = [client.stream("POST", path, content=body) for _ in range(20)]
        assert {reply.status_code for reply in pool.map(streams.enter_context, opened)} == {200}
        assert tasks(url) >= 20  # not beside those of before, of which some are of the start
    until(lambda: tasks(url) <= before)
