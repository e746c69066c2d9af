"""Engines that go on sending without saying anything, or without an end."""

import asyncio
import time

import pytest

from athena.router.dialects import codec
from athena.router.errors import NoBackendError, StreamBrokenError
from athena.router.services import RouterServices
from athena.router.types import Dialect, Operation
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import Asked
from tests.router.test_dispatch import answer, call


class SaysNothing:
    """An engine that writes one token, and from then on the same pieces again and again."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    async def __call__(self, asked: Asked) -> None:
        """Answer one request, until its connection is closed."""
        await asked.start()
        await asked.chunk(asked.piece("You "))
        left = asyncio.ensure_future(asked.until_left())
        while not left.done():
            for piece in self.pieces:
                await asked.chunk(piece)
                await asyncio.sleep(0.02)


KEEPS_ALIVE = SaysNothing(b": keepalive\n\n")
BLANK_LINES = SaysNothing(b"\n")
DRIPS = SaysNothing(b"x")

# The engine, what it does, whether its stream goes through as it is
CASES = [
    ("openai", KEEPS_ALIVE, True),
    ("openai", DRIPS, True),
    ("openai", KEEPS_ALIVE, False),
    ("openai", DRIPS, False),
    ("ollama", BLANK_LINES, True),
    ("ollama", DRIPS, True),
    ("ollama", BLANK_LINES, False),
    ("ollama", DRIPS, False),
]


async def seconds_until_cut(services: RouterServices, number: int, dialect: Dialect, *, passed: bool) -> float:
    """Return how long a stream goes on after its first token."""
    asked = call(dialect, model=f"m{number}")
    reply = await services.dispatcher.open(asked)
    started = time.monotonic()
    encoder = None if passed else codec(dialect).encoder(Operation.CHAT, asked.model)
    pieces: list[bytes] = []
    try:
        assert reply.passthrough == passed
        with pytest.raises(StreamBrokenError, match="for 1 s"):
            await reply.relay(pieces.append, encoder)
    finally:
        await reply.aclose()
    assert b"You " in b"".join(pieces)
    return time.monotonic() - started


async def slow_but_sure(asked: Asked) -> None:
    """Write a token now and then, and end properly."""
    await asked.start()
    for text in ("a", "b", "c"):
        await asked.chunk(asked.piece(text))
        await asyncio.sleep(0.4)
    await asked.chunk(asked.end())
    await asked.send(b"0\r\n\r\n")


async def test_a_stream_is_cut_for_want_of_tokens_whatever_else_comes_and_only_then(bench: Bench) -> None:
    slow = await bench.engine(slow_but_sure)
    rows = [row(99, slow.url, "slow", stall_seconds=1)]
    for number, (engine, behaviour, _) in enumerate(CASES, 1):
        stand_in = await bench.engine(behaviour)
        limits = {"timeout_seconds": 60, "stall_seconds": 1}
        rows.append(row(number, stand_in.url, f"m{number}", engine, **limits))
    services = await bench.router(*rows)
    going_on = asyncio.create_task(answer(services, call(model="slow")))
    dialects = {("openai", True): Dialect.OPENAI, ("openai", False): Dialect.OLLAMA}
    dialects |= {("ollama", True): Dialect.OLLAMA, ("ollama", False): Dialect.OPENAI}
    seconds = await asyncio.wait_for(
        asyncio.gather(
            *(
                seconds_until_cut(services, number, dialects[engine, passed], passed=passed)
                for number, (engine, _, passed) in enumerate(CASES, 1)
            )
        ),
        10,
    )
    assert min(seconds) > 0.5
    assert max(seconds) < 4.0
    assert await going_on == "abc"


class Endless:
    """An engine that writes until its connection is closed: whole lines, or one line."""

    def __init__(self, *, lines: bool) -> None:
        self.lines = lines
        self.sent = 0
        self.left = asyncio.Event()

    async def __call__(self, asked: Asked) -> None:
        """Answer one request."""
        await asked.start("application/json")
        piece = asked.piece("x" * 1000)
        if not self.lines:
            await asked.chunk(piece.partition(b"x")[0])
            piece = b"x" * 1000
        try:
            while True:
                await asked.chunk(piece)
                self.sent += len(piece)
        except ConnectionError:
            self.left.set()
            raise


@pytest.mark.parametrize("lines", [True, False], ids=["lines", "one-line"])
@pytest.mark.parametrize("engine", ["ollama", "openai"])
async def test_a_whole_reply_that_is_translated_does_not_fill_the_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, engine: str, lines: bool
) -> None:
    monkeypatch.setattr("athena.router.reply.BODY_LIMIT", 100_000)
    monkeypatch.setattr("athena.router.upstream_reply.BODY_LIMIT", 100_000)
    stand_in = await bench.engine(endless := Endless(lines=lines))
    services = await bench.router(row(1, stand_in.url, engine=engine, timeout_seconds=60))
    caller = Dialect.OPENAI if engine == "ollama" else Dialect.OLLAMA
    async with asyncio.timeout(10):
        with pytest.raises(NoBackendError):
            await answer(services, call(caller, stream=False))
        await endless.left.wait()
    assert endless.sent < 50_000_000
