"""Callers that mean harm or are broken: each meets a limit and a clear answer, while the others go on being served."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
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
    async def connection(self) -> AsyncIterator["Raw"]:
        """Connect without a client's manners."""
        with socket.create_connection(self.address) as connection:
            connection.setblocking(False)
            raw = Raw(connection)
            yield raw
            await raw.stop()

    async def serves_others(self) -> None:
        """Check that callers who behave get right answers, and soon."""
        async with asyncio.timeout(20):
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


class Raw:
    """A bare connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._sending: asyncio.Task[None] | None = None

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self._loop.sock_sendall(self._socket, data)

    def send_without_end(self, piece: bytes, pause: float = 0.0) -> None:
        """Send a piece again and again, until the proxy has had enough."""
        self._sending = asyncio.create_task(self._repeat(piece, pause))

    async def answer(self) -> Answer:
        """Return the answer to what was sent; after it the connection must end, with a reset if it likes."""
        heard = asyncio.StreamReader()
        async with asyncio.timeout(60):
            with suppress(ConnectionError):
                while data := await self._loop.sock_recv(self._socket, 65536):
                    heard.feed_data(data)
        heard.feed_eof()
        answer = await Caller("http://unused").receive(heard, OPENAI_CHAT, stream=False)
        assert await heard.read() == b""
        return answer

    async def stop(self) -> None:
        """Send no more."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _repeat(self, piece: bytes, pause: float) -> None:
        with suppress(ConnectionError):
            while True:
                await self.send(piece)
                await asyncio.sleep(pause)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with world(tmp_path_factory.mktemp("hostile")) as own:
        yield Stage(own)


def head(length: int | str = 0) -> bytes:
    """Return the head of a request for a reply."""
    return f"POST {OPENAI_CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


async def test_a_header_without_end_is_refused(stage: Stage) -> None:
    async with stage.connection() as raw:
        await raw.send(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-long: ")
        raw.send_without_end(b"y" * 65536)
        answer = await raw.answer()
    assert answer.status == 431
    assert answer.error
    await stage.serves_others()


async def test_headers_without_number_are_refused(stage: Stage) -> None:
    async with stage.connection() as raw:
        await raw.send(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        raw.send_without_end(b"x: y\r\n" * 1000)
        assert (await raw.answer()).status == 431
    await stage.serves_others()


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_without_end_is_refused(stage: Stage, declared: bool) -> None:
    before = stage.proxy.resident()
    async with stage.connection() as raw:
        if declared:
            await raw.send(head(10**12))
            raw.send_without_end(b"y" * 65536)
        else:
            await raw.send(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            raw.send_without_end(b"10000\r\n" + b"y" * 65536 + b"\r\n")
        answer = await raw.answer()
    assert answer.status == 413
    assert answer.error
    assert stage.proxy.resident() - before < 3 * BODY_LIMIT
    await stage.serves_others()


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
    async with stage.connection() as raw:
        await raw.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n")
        assert (await raw.answer()).status == 400
    await stage.serves_others()


@contextmanager
def _crowd(port: int) -> Iterator[None]:
    """Keep idle connections open from another process."""
    command = [sys.executable, "-c", _IDLE, str(port), str(CROWD)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
        try:
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == b"open\n"
            yield
        finally:
            crowd.kill()


async def test_ten_thousand_idle_connections_cost_the_others_nothing(stage: Stage) -> None:
    before = stage.proxy.descriptors()
    with _crowd(stage.address[1]):
        await until(lambda: stage.proxy.descriptors() > CROWD)
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
    async with stage.connection() as head_, stage.connection() as body, stage.connection() as stopped:
        await head_.send(b"POST /v1/completions HTTP/1.1\r\nx: ")
        head_.send_without_end(b"y", pause=0.2)
        await body.send(head(1000))
        body.send_without_end(b"y", pause=0.2)
        await stopped.send(head(1000) + b"{")
        await stage.serves_others()
        answers = await asyncio.gather(*(raw.answer() for raw in (head_, body, stopped)))
    assert [answer.status for answer in answers] == [408, 408, 408]
    await stage.serves_others()
