"""Streams that break, callers that leave or do not read, and many of them at once."""

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import ollama
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.proxy.conftest import Run, StartProxy
from tests.proxy.engines import (
    OLLAMA_END,
    USAGE,
    hangs,
    hangs_in_its_stream,
    ollama_engine,
    ollama_line,
    openai_chunk,
    openai_engine,
    openai_whole,
    sse,
)
from tests.proxy.standin import Handler, Heard, StandIn, backend

CHAT = "/v1/chat/completions"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Good morning"}]


async def _openai_breaks(heard: Heard) -> None:
    """Three pieces, half a line, and the connection is gone."""
    await heard.start("text/event-stream")
    for piece in ("one ", "two ", "three "):
        await heard.chunk(sse(openai_chunk(heard, piece)))
    await heard.chunk(b'data: {"id": "x-1", "cho')
    heard.close()


async def _openai_ends_without_its_mark(heard: Heard) -> None:
    await heard.start("text/event-stream")
    await heard.chunk(sse(openai_chunk(heard, "one ")))
    await heard.end()


async def _ollama_breaks(heard: Heard) -> None:
    await heard.start("application/x-ndjson")
    for piece in ("one ", "two ", "three "):
        await heard.chunk(ollama_line(heard, piece))
    await heard.chunk(b'{"model": "m", "respo')
    heard.close()


async def _ollama_reports_an_error(heard: Heard) -> None:
    await heard.start("application/x-ndjson")
    await heard.chunk(ollama_line(heard, "one "))
    await asyncio.sleep(0.1)  # together with the first token it would still be a matter for the next backend
    await heard.chunk(b'{"error": "out of memory"}\n')
    await heard.end()


BROKEN = [
    ("openai", _openai_breaks),
    ("openai", _openai_ends_without_its_mark),
    ("ollama", _ollama_breaks),
    ("ollama", _ollama_reports_an_error),
]


@pytest.mark.parametrize(("engine", "behaviour"), BROKEN)
def test_a_stream_that_breaks_after_its_first_token_ends_in_an_error_for_both_clients(
    stand_in: Run, proxy_for: StartProxy, engine: str, behaviour: Handler
) -> None:
    url = proxy_for(backend("m", engine, stand_in(behaviour).url))
    received: list[str] = []
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError):
            received.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(received).startswith("one ")
    received.clear()
    local = ollama.Client(host=url)
    with pytest.raises(ollama.ResponseError):
        received.extend(part.response or "" for part in local.generate(model="m", prompt="Once", stream=True))
    assert "".join(received).startswith("one ")
    local._client.close()


@pytest.mark.parametrize(("engine", "behaviour"), BROKEN)
@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
def test_a_broken_stream_never_looks_whole(
    stand_in: Run, proxy_for: StartProxy, engine: str, behaviour: Handler, path: str
) -> None:
    url = proxy_for(backend("m", engine, stand_in(behaviour).url))
    lines: list[str] = []
    with (
        httpx.stream("POST", url + path, json={"model": "m", "messages": MESSAGES, "stream": True}) as reply,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        lines.extend(reply.iter_lines())
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert "error" in events[-1]
    assert not any(event.get("done") for event in events)


def test_a_whole_reply_that_breaks_off_is_an_error(stand_in: Run, proxy_for: StartProxy) -> None:
    async def half(heard: Heard) -> None:
        body = openai_whole(heard, "Hello")
        await heard.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
        await heard.raw(body[:40])
        heard.close()

    url = proxy_for(backend("m", "openai", stand_in(half).url))
    reply = httpx.post(url + CHAT, json={"model": "m", "messages": MESSAGES})
    assert reply.status_code in {502, 503}
    assert "error" in reply.json()


def test_a_failure_before_the_first_token_moves_to_the_next_backend(stand_in: Run, proxy_for: StartProxy) -> None:
    async def opens_and_dies(heard: Heard) -> None:
        await heard.start("text/event-stream")
        heard.reset()

    url = proxy_for(
        backend("m", "openai", stand_in(opens_and_dies).url, priority=0),
        backend("m", "ollama", stand_in(ollama_engine).url, priority=1),
    )
    reply = httpx.post(url + CHAT, json={"model": "m", "messages": MESSAGES, "stream": True})
    assert reply.headers["x-athena-backend"] == "ollama"
    assert reply.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("engine", ["openai", "ollama"])
@pytest.mark.parametrize("behaviour", [hangs, hangs_in_its_stream])
async def test_every_caller_that_leaves_is_felt_by_the_engine(
    stand_in: Run, proxy_for: StartProxy, engine: str, stream: bool, behaviour: Handler
) -> None:
    upstream = stand_in(behaviour)
    url = proxy_for(backend("m", engine, upstream.url))
    for _ in range(3):
        await _leave(url, upstream, stream=stream)
    assert len(upstream.heard) == 3
    async with httpx.AsyncClient(base_url=url) as client:
        metrics = (await client.get("/metrics")).text
    assert 'error_type="cancelled"' in metrics
    assert "http_server_active_requests 0.0" in metrics


async def _leave(url: str, upstream: StandIn, *, stream: bool) -> None:
    """Ask and leave, and wait until the engine has felt it; its reply has no end of its own."""
    asked = len(upstream.heard)
    async with httpx.AsyncClient(base_url=url) as client:
        request = asyncio.create_task(_read(client, {"model": "m", "messages": MESSAGES, "stream": stream}))
        await _until(lambda: len(upstream.heard) > asked)
        await asyncio.sleep(0.1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    await _until(lambda: upstream.heard[asked].left_at is not None)


async def _read(client: httpx.AsyncClient, body: object) -> None:
    async with client.stream("POST", CHAT, json=body) as reply:
        await reply.aread()


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in another thread."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError


def _resident() -> int:
    """Return the resident memory of this process, the proxy's and the stand-in's, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("engine", ["openai", "ollama"])
def test_a_caller_that_never_reads_its_stream_costs_no_memory(
    stand_in: Run, proxy_for: StartProxy, engine: str
) -> None:
    sent = 0

    async def floods(heard: Heard) -> None:
        nonlocal sent
        await heard.start("text/event-stream" if engine == "openai" else "application/x-ndjson")
        piece = "y" * 10_000
        line = sse(openai_chunk(heard, piece)) if engine == "openai" else ollama_line(heard, piece)
        while sent < 400_000_000:
            await heard.chunk(line)
            sent += len(line)

    url = proxy_for(backend("m", engine, stand_in(floods).url))
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"model": "m", "messages": MESSAGES, "stream": True}).encode()
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        before, sent_before = _resident(), -1
        while sent != sent_before:  # until the engine is held back
            sent_before = sent
            time.sleep(1)
        assert 0 < sent < 50_000_000
        assert _resident() - before < 30_000_000


async def _echo(heard: Heard) -> None:
    """Answer with the caller's own words, many times, slowly enough that streams overlap."""
    words = heard.json["messages"][0]["content"]
    await heard.start("text/event-stream")
    for number in range(20):
        await heard.chunk(sse(openai_chunk(heard, f"{words}-{number} ")))
        await asyncio.sleep(0.005)
    await heard.chunk(sse(openai_chunk(heard, {}, "stop")))
    await heard.chunk(b"data: [DONE]\n\n")
    await heard.end()


async def test_a_hundred_streams_at_once_are_not_mixed_up(stand_in: Run, proxy_for: StartProxy) -> None:
    url = proxy_for(backend("m", "openai", stand_in(_echo).url))

    async with httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_connections=200), timeout=30) as client:

        async def ask(number: int) -> None:
            dialect = CHAT if number % 2 else "/api/chat"
            body = {"model": "m", "messages": [{"role": "user", "content": f"c{number}"}], "stream": True}
            reply = await client.post(dialect, json=body)
            lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
            events = [json.loads(line) for line in lines if line != "[DONE]"]
            if number % 2:
                texts = [event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"]]
            else:
                texts = [event["message"]["content"] for event in events]
            assert "".join(texts) == "".join(f"c{number}-{step} " for step in range(20))

        await asyncio.gather(*(ask(number) for number in range(100)))


async def _says_its_end_mark(heard: Heard) -> None:
    """Stream up to the end mark, and not to the end of the body."""
    if heard.path.startswith("/api/"):
        await heard.start("application/x-ndjson")
        await heard.chunk(ollama_line(heard, "one "))
        await heard.chunk(ollama_line(heard, "", **OLLAMA_END))
    else:
        await heard.start("text/event-stream")
        await heard.chunk(sse(openai_chunk(heard, "one ")))
        await heard.chunk(sse(openai_chunk(heard, {}, "stop")))
        await heard.chunk(sse({**openai_chunk(heard, ""), "choices": [], "usage": USAGE}))
        await heard.chunk(b"data: [DONE]\n\n")


@pytest.mark.parametrize(("engine", "path"), [("openai", CHAT), ("ollama", "/api/chat"), ("ollama", CHAT)])
def test_a_stream_ends_with_its_end_mark_though_its_engine_never_ends_the_body(
    stand_in: Run, proxy_for: StartProxy, engine: str, path: str
) -> None:
    async def never_ends(heard: Heard) -> None:
        await _says_its_end_mark(heard)
        await heard.wait_until_left()

    upstream = stand_in(never_ends)
    url = proxy_for(backend("m", engine, upstream.url, stall_seconds=5))
    reply = httpx.post(url + path, json={"model": "m", "messages": MESSAGES, "stream": True})
    assert "error" not in reply.text
    assert "one " in reply.text
    metrics = httpx.get(url + "/metrics").text
    assert 'error_type="' not in metrics.replace('error_type=""', "")
    assert re.search(r'^gen_ai_client_token_usage_sum{.*gen_ai_token_type="input".*} 7\.0$', metrics, re.MULTILINE)


async def test_a_caller_that_leaves_when_it_has_seen_the_end_mark_has_had_a_whole_reply(
    stand_in: Run, proxy_for: StartProxy
) -> None:
    async def says_no_more(heard: Heard) -> None:
        await heard.start("text/event-stream")
        await heard.chunk(sse(openai_chunk(heard, "one ")))
        await heard.chunk(sse({**openai_chunk(heard, {}, "stop"), "usage": USAGE}))
        await heard.chunk(b"data: [DONE]\n")  # without the blank line that would end the event
        await heard.wait_until_left()

    url = proxy_for(backend("m", "openai", stand_in(says_no_more).url))
    async with httpx.AsyncClient(base_url=url) as client:
        body = {"model": "m", "messages": MESSAGES, "stream": True}
        async with client.stream("POST", CHAT, json=body) as reply:
            async for line in reply.aiter_lines():
                if line == "data: [DONE]":
                    break
        metrics = (await client.get("/metrics")).text
        while "http_server_active_requests 0.0" not in metrics:
            metrics = (await client.get("/metrics")).text
    assert 'error_type="cancelled"' not in metrics
    assert re.search(r'^gen_ai_client_token_usage_sum{.*gen_ai_token_type="input".*} 7\.0$', metrics, re.MULTILINE)
    assert "athena_caller_left_total 0.0" in metrics


@pytest.mark.parametrize(("engine", "path"), [("openai", CHAT), ("ollama", "/api/chat")])
async def test_the_connection_of_an_engine_that_ends_the_body_a_moment_later_is_used_again(
    stand_in: Run, proxy_for: StartProxy, engine: str, path: str
) -> None:
    ended = 0

    async def ends_a_moment_later(heard: Heard) -> None:
        nonlocal ended
        await _says_its_end_mark(heard)
        await asyncio.sleep(0.05)
        await heard.end()
        ended += 1

    upstream = stand_in(ends_a_moment_later)
    url = proxy_for(backend("m", engine, upstream.url))
    async with httpx.AsyncClient(base_url=url) as client:
        for _ in range(5):
            await client.post(path, json={"model": "m", "messages": MESSAGES, "stream": True})
            await _until(lambda: ended == len(upstream.heard))
    # A request that comes in one breath with the end of the body before it may have a second connection.
    assert len({heard.writer for heard in upstream.heard}) <= 2


async def test_connections_are_used_again(stand_in: Run, proxy_for: StartProxy) -> None:
    upstream: StandIn = stand_in(openai_engine)
    url = proxy_for(backend("m", "openai", upstream.url))
    async with httpx.AsyncClient(base_url=url) as client:
        for stream in (False, True) * 10:
            reply = await client.post(CHAT, json={"model": "m", "messages": MESSAGES, "stream": stream})
            assert reply.status_code == 200
    assert upstream.open_connections <= 2  # those who watch engines have one of their own
    assert len(upstream.heard) == 20
