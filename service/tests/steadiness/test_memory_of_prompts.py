"""What large prompts take of the proxy's memory while an engine is at work on them."""

import json
import socketserver
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread

import pytest

from tests.steadiness.world import World, until
from tests.support.caller import OLLAMA_CHAT, OPENAI_CHAT, Caller
from tests.support.registry import backend

COUNT, SIZE = 6, 10_000_000


class SilentEngine(socketserver.ThreadingTCPServer):
    """An engine that reads what it is asked, and never answers. It ends once nobody is connected."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Reading)
        self.received: Counter[int] = Counter()  # bytes by connection

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Reading(socketserver.BaseRequestHandler):
    server: SilentEngine

    def handle(self) -> None:
        """Take all that comes over a connection."""
        with suppress(ConnectionError):
            while data := self.request.recv(1 << 20):
                self.server.received[id(self)] += len(data)


@pytest.fixture
def engine() -> Iterator[SilentEngine]:
    """An engine that outlives the proxy."""
    with SilentEngine() as engine:
        thread = Thread(target=engine.serve_forever, args=(0.05,))
        thread.start()
        yield engine
        engine.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("kind", "path", "most"),
    [("openai", OPENAI_CHAT, 1.7), ("ollama", OLLAMA_CHAT, 1.7), ("ollama", OPENAI_CHAT, 3.3)],
    ids=["openai", "ollama", "translated"],
)
async def test_a_prompt_that_is_passed_on_is_held_once_and_a_translated_one_with_its_text(
    engine: SilentEngine, scene: World, kind: str, path: str, most: float
) -> None:
    proxy = scene.proxy(backend(1, "m", kind, engine.url, timeout_seconds=100, max_concurrency=100))
    before = proxy.resident()
    messages = [{"role": "user", "content": "x" * SIZE}]
    body = json.dumps({"model": "m", "messages": messages, "stream": True}).encode()
    callers = [Caller(proxy.url) for _ in range(COUNT)]
    for caller in callers:
        await caller.send(path, body)
    await until(lambda: engine.received.total() >= COUNT * SIZE, 30)
    held = proxy.resident() - before
    for caller in callers:
        caller.leave()
    assert COUNT * SIZE * 0.8 < held < COUNT * SIZE * most
