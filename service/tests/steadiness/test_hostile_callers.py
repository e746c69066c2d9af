"""Callers that mean harm or are broken: each meets a limit and a clear answer, while the others go on being served."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import pytest

from tests.steadiness.world import Proxy, World, until, world
from tests.support.caller import OLLAMA_CHAT, OPENAI_CHAT, PATHS, Answer, Caller, ask
from tests.support.faults.process import EngineProcess
from tests.support.faults.wire import reply_to
from tests.support.registry import backend

BODY_LIMIT = 32 * 1024 * 1024
CROWD = 10_000
# Another process opens the connections, and keeps them until its input ends.
_IDLE = """
import resource, socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
print("open", flush=True)
sys.stdin.read()
"""


class Stage:
    """A proxy with an engine that serves."""

    def __init__(self, own: World) -> None:
        self.engine: EngineProcess = own.engine()
        self.proxy: Proxy = own.proxy(
            backend(1, "m", "openai", self.engine.url, max_concurrency=100),
            backend(2, "flooding", "openai", self.engine.another_url(), max_concurrency=100),
        )
        parts = urlsplit(self.proxy.url)
        self.address = (parts.hostname or "", parts.port or 0)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect without a client's manners."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def serves_others(self) -> None:
        """Check that callers who behave get right answers, and soon."""
        async with asyncio.timeout(5):
            answers = await asyncio.gather(
                *(
                    ask(self.proxy.url, path, "m", f"{path} {number}", stream=number % 2 == 0)
                    for path in PATHS
                    for number in range(6)
                )
            )
        for number, answer in enumerate(answers):
            assert answer.complete, answer
            assert answer.text == "".join(reply_to(f"{answer.path} {number % 6}"))

    async def says(self, reader: asyncio.StreamReader) -> Answer:
        """Return the answer to what was sent; after it the connection must end."""
        caller = Caller(self.proxy.url)
        async with asyncio.timeout(60):
            answer = await caller.receive(reader, OPENAI_CHAT, stream=False)
            assert await reader.read() == b""
        return answer


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with world(tmp_path_factory.mktemp("hostile")) as own:
        yield Stage(own)


def head(length: int | str = 0) -> bytes:
    """Return the head of a request for a reply."""
    return f"POST {OPENAI_CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


async def test_a_header_without_end_is_refused(stage: Stage) -> None:
    async with stage.connection() as (reader, writer):
        writer.write(b"POST " + OPENAI_CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\nx-long: ")
        sent = asyncio.create_task(_without_end(writer, b"y" * 65536))
        answer = await stage.says(reader)
        sent.cancel()
    assert answer.status == 431
    assert answer.error
    await stage.serves_others()


async def test_headers_without_number_are_refused(stage: Stage) -> None:
    async with stage.connection() as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        sent = asyncio.create_task(_without_end(writer, b"x: y\r\n" * 1000))
        answer = await stage.says(reader)
        sent.cancel()
    assert answer.status == 431
    await stage.serves_others()


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_without_end_is_refused(stage: Stage, declared: bool) -> None:
    before = stage.proxy.resident()
    async with stage.connection() as (reader, writer):
        if declared:
            writer.write(head(10**12))
            piece = b"y" * 65536
        else:
            writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            piece = b"10000\r\n" + b"y" * 65536 + b"\r\n"
        sent = asyncio.create_task(_without_end(writer, piece))
        answer = await stage.says(reader)
        sent.cancel()
    assert answer.status == 413
    assert answer.error
    assert stage.proxy.resident() - before < 3 * BODY_LIMIT
    await stage.serves_others()


async def _without_end(writer: asyncio.StreamWriter, piece: bytes) -> None:
    try:
        while True:
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass  # the proxy has had enough


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"what?",
        b'{"model": "m", "messages": [',
        b"[]",
        b"[" * 1_000_000,
        b'{"model": "m", "prompt": "x", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "m", "prompt": "x", "messages": [], "more": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    ],
    ids=["empty", "no JSON", "half", "no object", "open brackets", "deep list", "deep object"],
)
async def test_what_is_no_request_is_a_400_in_the_callers_dialect(stage: Stage, path: str, body: bytes) -> None:
    async with Caller(stage.proxy.url) as caller:
        answer = await caller.receive(await caller.send(path, body), path, stream=False)
        assert answer.status == 400, answer
        assert answer.error
    assert not stage.proxy.server.events("unexpected_error")


async def test_what_is_no_http_is_refused(stage: Stage) -> None:
    async with stage.connection() as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n")
        assert (await stage.says(reader)).status == 400
    await stage.serves_others()


@contextmanager
def _crowd(port: int) -> Iterator[None]:
    """Keep idle connections open from another process."""
    command = [sys.executable, "-c", _IDLE, str(port), str(CROWD)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == b"open\n"
        yield
        crowd.kill()


async def test_ten_thousand_idle_connections_cost_the_others_nothing(stage: Stage) -> None:
    before = stage.proxy.descriptors()
    with _crowd(stage.address[1]):
        await until(lambda: stage.proxy.descriptors() - before >= CROWD)
        await stage.serves_others()
        assert stage.proxy.resident() < 300_000_000
    await until(lambda: stage.proxy.descriptors() <= before + 50)


@pytest.mark.parametrize("path", [OPENAI_CHAT, OLLAMA_CHAT])
async def test_callers_that_never_read_their_streams_cost_no_memory(stage: Stage, path: str) -> None:
    """The engine would say a hundred times what a socket holds; what nobody takes in, it does not get to say."""
    prompt = "x" * 10_000 + "[tokens=10000 pause=0]"
    messages = [{"role": "user", "content": prompt}]
    body = json.dumps({"model": "flooding", "messages": messages, "stream": True}).encode()
    request = head(len(body)).replace(OPENAI_CHAT.encode(), path.encode()) + body
    before = stage.proxy.resident()
    writers = []
    for _ in range(5):
        _, writer = await asyncio.open_connection(*stage.address, limit=1)
        writer.write(request)
        writers.append(writer)
    await until(lambda: stage.engine.report().running == 5)
    await stage.serves_others()
    await asyncio.sleep(0.5)
    await stage.serves_others()
    assert stage.proxy.resident() - before < 60_000_000
    for writer in writers:
        writer.transport.abort()
    await until(lambda: stage.engine.report().running == 0)


@pytest.mark.slow
async def test_slow_senders_are_told_and_cut_off(stage: Stage) -> None:
    """A head and a body that come by the byte, and one of each that stop coming."""
    async with (
        stage.connection() as (head_reader, head_writer),
        stage.connection() as (body_reader, body_writer),
        stage.connection() as (stopped_reader, stopped_writer),
    ):
        head_writer.write(b"POST /v1/completions HTTP/1.1\r\nx: ")
        body_writer.write(head(1000))
        stopped_writer.write(head(1000) + b"{")
        drops = [asyncio.create_task(_drop_by_drop(writer)) for writer in (head_writer, body_writer)]
        await stage.serves_others()
        answers = await asyncio.gather(*(stage.says(reader) for reader in (head_reader, body_reader, stopped_reader)))
        for drop in drops:
            drop.cancel()
    assert [answer.status for answer in answers] == [408, 408, 408]
    await stage.serves_others()


async def _drop_by_drop(writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(b"y")
            await asyncio.sleep(0.2)
    except ConnectionError:
        pass  # the proxy has had enough
