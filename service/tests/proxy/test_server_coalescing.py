"""Pieces of streams that are held for a moment where very many come, on a clock that the tests turn and for real."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
from structlog.testing import capture_logs

from athena.proxy.server.coalescing import HOLD_SECONDS, MANY, Coalescer
from tests.proxy.plain import Line, get, plain_server


class Turns:
    """An event loop's turns, taken one by one."""

    def __init__(self) -> None:
        self.now = 5.0
        self._due: list[Callable[[], None]] = []

    def time(self) -> float:
        """Return the time, which stands still within a turn."""
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call in the next turn."""
        self._due.append(callback)

    def turn(self) -> None:
        """Begin the next turn."""
        due, self._due = self._due, []
        for callback in due:
            callback()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self._due


class Streams:
    """Callers whose pieces come to a coalescer; `written` has what is written, in order."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.written: list[str] = []
        self._coalescer = Coalescer(cast("asyncio.AbstractEventLoop", self.turns))
        self._came: dict[str, float] = {}

    def piece(self, stream: str) -> None:
        """Let a piece of a stream come."""
        before = self._came.get(stream, 0.0)
        self._came[stream] = self.turns.now
        if not self._coalescer.holds(self.turns.now, before, lambda: self.written.append(stream)):
            self.written.append(stream)

    def many(self, spans: int = 3) -> None:
        """Let very many pieces of a few fast streams come, for some thousandths of a second."""
        for _ in range(spans):
            for number in range(2 * MANY):
                self.piece(f"fast {number % 16}")
            self.turns.turn()
            self.turns.now += 0.001


def test_a_piece_is_written_at_once_where_few_come() -> None:
    streams = Streams()
    for number in range(1000):
        streams.piece("a")
        streams.piece("b")
        assert len(streams.written) == 2 * number + 2
        streams.turns.now += 0.001
    assert streams.turns.idle


def test_pieces_of_fast_streams_are_held_for_a_moment_where_very_many_come() -> None:
    streams = Streams()
    streams.many()
    streams.written.clear()
    streams.piece("fast 0")
    assert not streams.written
    began = streams.turns.now
    while not streams.written:
        streams.many(1)
    assert streams.turns.now - began <= HOLD_SECONDS + 0.0015
    assert streams.written[0].startswith("fast")


def test_a_slow_stream_is_written_at_once_even_where_very_many_pieces_come() -> None:
    streams = Streams()
    streams.piece("slow")
    streams.many(4)
    streams.written.clear()
    streams.piece("slow")
    assert streams.written == ["slow"]


def test_what_is_held_goes_out_once_nothing_more_comes() -> None:
    streams = Streams()
    streams.many()
    streams.written.clear()
    streams.piece("fast 0")
    for _ in range(3):
        streams.turns.turn()
    assert streams.written[-1] == "fast 0"
    assert streams.turns.idle, "the loop can rest"


def test_a_write_that_fails_takes_no_other_with_it() -> None:
    turns = Turns()
    coalescer = Coalescer(cast("asyncio.AbstractEventLoop", turns))
    for _ in range(3):
        for _ in range(2 * MANY):
            coalescer.holds(turns.now, turns.now, lambda: None)
        turns.now += 0.001
    written: list[int] = []

    def fail() -> None:
        raise OSError("the connection is lost")

    assert coalescer.holds(turns.now, turns.now, fail)
    assert coalescer.holds(turns.now, turns.now, lambda: written.append(1))
    with capture_logs() as logs:
        for _ in range(3):
            turns.turn()
    assert written == [1]
    assert [line["event"] for line in logs] == ["write_failed"]


@pytest.mark.patches_source
def test_very_many_pieces_arrive_whole_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    holds = Coalescer.holds

    def noted(*arguments: object) -> bool:
        held.append(holds(*arguments))  # type: ignore[arg-type]  # the same ones
        return held[-1]

    monkeypatch.setattr(Coalescer, "holds", noted)
    most = 3000
    expected = b"".join(b"%x\r\n%d,\r\n" % (len(b"%d," % number), number) for number in range(most)) + b"0\r\n\r\n"
    with plain_server() as (_, serving):

        def ask(_: int) -> bytes:
            with Line(serving.port, get(f"/numbers?{most}", "connection: close")) as line:
                return line.rest()

        with ThreadPoolExecutor(16) as callers:
            for answer in callers.map(ask, range(16)):
                assert answer.partition(b"\r\n\r\n")[2] == expected
    assert any(held)
