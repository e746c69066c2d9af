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
from tests.router.test_dispatch import SAID, answer, call


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
        reply.close()
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


async def test_a_stream_that_the_library_reads_is_cut_for_want_of_tokens_as_well(bench: Bench) -> None:
    engine = await bench.engine(KEEPS_ALIVE)
    services = await bench.router(row(1, engine.url, engine="openai", timeout_seconds=60, stall_seconds=1))
    reply = await services.dispatcher.open(call())
    async with asyncio.timeout(10):
        with pytest.raises(StreamBrokenError, match="for 1 s"):
            async for _ in reply.events():
                pass


class Calls:
    """An engine that writes a tool call over two seconds, a fragment every tenth, and says `first` before it.

    With `stops` it writes the first fragment alone.
    """

    def __init__(self, first: str = "", *, stops: bool = False) -> None:
        self.first = first
        self.stops = stops

    async def __call__(self, asked: Asked) -> None:
        """Answer one request."""
        await asked.start()
        if self.first:
            await asked.chunk(asked.piece(self.first))
        await self._fragment(asked, '{"text": "', name="write")
        if self.stops:
            await asked.until_left()
            return
        for _ in range(20):
            await asyncio.sleep(0.1)
            await self._fragment(asked, "word ")
        await self._fragment(asked, '"}')
        await asked.chunk(asked.end())
        await asked.send(b"0\r\n\r\n")

    async def _fragment(self, asked: Asked, arguments: str, **more: str) -> None:
        call = {"index": 0, "function": {"arguments": arguments, **more}}
        await asked.chunk(asked.piece("", delta={"tool_calls": [call]}))


@pytest.mark.parametrize("first", ["Let me write it.", ""], ids=["after words", "at once"])
async def test_a_tool_call_that_takes_long_to_write_is_no_stall(bench: Bench, first: str) -> None:
    engine = await bench.engine(Calls(first))
    services = await bench.router(
        row(1, engine.url, engine="openai", timeout_seconds=60, first_token_seconds=1, stall_seconds=1)
    )
    reply = await services.dispatcher.open(call(Dialect.OLLAMA))
    pieces: list[bytes] = []
    await reply.relay(pieces.append, codec(Dialect.OLLAMA).encoder(Operation.CHAT, "m"))
    assert b"word word" in b"".join(pieces)
    assert b'"done":true' in pieces[-1]


async def test_a_tool_call_that_stops_before_anything_was_given_out_goes_elsewhere(bench: Bench) -> None:
    stopped, sound = await bench.engine(Calls(stops=True)), await bench.engine()
    services = await bench.router(
        row(1, stopped.url, engine="openai", timeout_seconds=60, stall_seconds=1),
        row(2, sound.url, engine="openai", priority=1),
    )
    assert await asyncio.wait_for(answer(services, call(Dialect.OLLAMA)), 10) == SAID


async def blank_lines_first(asked: Asked) -> None:
    """Write a stream over two seconds whose pieces begin with the blank line that ends the event before."""
    await asked.start()
    await asked.chunk(asked.piece("a").removesuffix(b"\n"))
    for _ in range(20):
        await asyncio.sleep(0.1)
        await asked.chunk(b"\n" + asked.piece("b").removesuffix(b"\n"))
    await asked.chunk(b"\n" + asked.end())
    await asked.send(b"0\r\n\r\n")


async def test_tokens_behind_a_blank_line_bring_a_stream_on(bench: Bench) -> None:
    engine = await bench.engine(blank_lines_first)
    services = await bench.router(row(1, engine.url, engine="openai", timeout_seconds=60, stall_seconds=1))
    reply = await services.dispatcher.open(call(Dialect.OPENAI))
    assert reply.passthrough
    pieces: list[bytes] = []
    await reply.relay(pieces.append)
    assert b"[DONE]" in pieces[-1]


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
