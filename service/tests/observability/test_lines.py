"""The lines of a process, as whoever reads its standard output gets them."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest

from athena.observability.lines import LineWriter

LINES_OF_A_PIPE = 2000  # of 100 bytes: more than any pipe holds
LONG_DELAY = 60.0  # whatever comes sooner did not wait for it


def notice(count: int) -> bytes:
    return b"%d missing\n" % count


def line(number: int) -> bytes:
    return b"%099d\n" % number


class Pipe:
    """A pipe, and what was read from it."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.text = b""

    def read(self) -> bytes:
        """Read what is there; return everything so far."""
        while True:
            try:
                piece = os.read(self.reader, 1 << 20)
            except BlockingIOError:
                return self.text
            if not piece:
                return self.text
            self.text += piece

    async def read_until(self, end: bytes) -> bytes:
        """Read until everything so far ends with this."""
        async with asyncio.timeout(10):
            while not self.read().endswith(end):  # noqa: ASYNC110 - nothing tells when a pipe has more
                await asyncio.sleep(0.001)
        return self.text


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for descriptor in (pipe.reader, pipe.writer):
        try:
            os.close(descriptor)
        except OSError:
            continue  # the test has closed it


async def test_lines_of_an_event_loop_are_written_together_a_moment_later(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, notice=notice, delay=0.01)
    for word in (b"one\n", b"two\n", b"three\n"):
        writer.write(word)
    assert pipe.read() == b""
    assert await pipe.read_until(b"three\n") == b"one\ntwo\nthree\n"
    writer.write(b"four\n")
    assert await pipe.read_until(b"four\n") == b"one\ntwo\nthree\nfour\n"


async def test_a_full_batch_does_not_wait(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, notice=notice, batch=1000, delay=LONG_DELAY)
    for number in range(25):
        writer.write(line(number))
    assert pipe.read() == b"".join(map(line, range(20)))


async def test_a_warning_is_written_at_once_and_after_all_before_it(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, notice=notice, delay=LONG_DELAY)
    writer.write(b"request\n")
    writer.write_now(b"warning\n")
    assert pipe.read() == b"request\nwarning\n"


def test_outside_of_an_event_loop_a_line_is_written_at_once(pipe: Pipe) -> None:
    LineWriter(pipe.writer, notice=notice, delay=LONG_DELAY).write(b"starting\n")
    assert pipe.read() == b"starting\n"


async def test_a_line_of_another_thread_keeps_its_place(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, notice=notice, delay=LONG_DELAY)
    writer.write(b"loop\n")
    await asyncio.to_thread(writer.write, b"thread\n")
    assert pipe.read() == b"loop\nthread\n"


def test_lines_of_an_event_loop_that_has_ended_come_with_the_next(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, notice=notice, delay=0.01)

    async def say(what: bytes) -> None:
        writer.write(what)

    async def say_and_read(what: bytes) -> bytes:
        writer.write(what)
        return await pipe.read_until(what)

    asyncio.run(say(b"first loop\n"))
    assert asyncio.run(say_and_read(b"second loop\n")) == b"first loop\nsecond loop\n"


def numbers_told(text: bytes) -> tuple[list[int], int, list[int]]:
    """Return the numbers of the lines, how many the notices say are missing, and how many really are after which."""
    numbers, missing = [], 0
    for told in text.splitlines():
        if told.endswith(b" missing"):
            missing += int(told.split()[0])
        else:
            assert len(told) == 99, told
            numbers.append(int(told))
    gaps = [after - before - 1 for before, after in pairwise(numbers) if after != before + 1]
    return numbers, missing, gaps


async def test_a_reader_that_does_not_read_holds_nobody_up_and_is_told_what_it_missed(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, notice=notice, limit=20_000, delay=0.01, retry=0.001)
    for number in range(LINES_OF_A_PIPE):  # would never end if it waited
        writer.write(line(number))
    assert writer.dropped > 0
    writer.write_now(line(LINES_OF_A_PIPE))  # nor does a warning wait
    first_gap = writer.dropped
    await pipe.read_until(b"%d missing\n" % first_gap)
    for number in range(LINES_OF_A_PIPE + 1, 2 * LINES_OF_A_PIPE):
        writer.write(line(number))
        if number % 100 == 0:
            await asyncio.sleep(0)
            pipe.read()
    await asyncio.to_thread(writer.write, b"%099d\n" % (2 * LINES_OF_A_PIPE))
    await pipe.read_until(line(2 * LINES_OF_A_PIPE))
    numbers, missing, gaps = numbers_told(pipe.text)
    assert numbers == sorted(numbers)
    assert missing == writer.dropped == sum(gaps)
    assert gaps[0] == first_gap


async def test_what_is_kept_for_a_reader_that_does_not_read_is_bounded(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, notice=notice, limit=20_000, delay=0.01)
    while not writer.dropped:
        writer.write(line(0))
    pipe.read()
    assert writer.flush()
    assert len(pipe.read().split(b"missing")[0]) < 20_000 + (1 << 20)  # what the pipe held, and what was kept
    held = writer.dropped
    for number in range(LINES_OF_A_PIPE):
        writer.write(line(number))
    assert writer.dropped > held


async def test_a_reader_that_has_gone_is_no_error(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, notice=notice, limit=10_000, delay=0.001)
    os.close(pipe.reader)
    for number in range(500):
        writer.write(line(number))
        writer.write_now(line(number))
    assert not writer.flush(within=5.0)  # and does not wait for one who never comes back
    await asyncio.sleep(0.005)
    assert writer.dropped == 1000 - 10_000 // 100


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/full")
async def test_a_full_disk_is_no_error() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(full, notice=notice, limit=10_000)
    for number in range(500):
        writer.write(line(number))
    assert writer.dropped == 400
    os.close(full)


def test_another_owner_of_the_pipe_is_not_made_unblocking(pipe: Pipe) -> None:
    LineWriter(pipe.writer, notice=notice).write(b"line\n")
    assert os.get_blocking(pipe.writer)


SEVERAL = """
import asyncio, sys
from athena.observability import logs
import structlog

logs.configure(sys.argv[1])

async def main():
    log = structlog.get_logger()
    for number in range(3000):
        log.info("request", number=number, filling="." * (number % 211))
        if number % 50 == 0:
            await asyncio.sleep(0)

asyncio.run(main())
"""


def test_processes_that_share_a_pipe_do_not_mix_their_lines() -> None:
    reader, writer = os.pipe()
    names = ["one", "two", "three"]
    running = [subprocess.Popen([sys.executable, "-c", SEVERAL, name], stdout=writer) for name in names]
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = [json.loads(text) for text in pipe]
    assert [process.wait(20) for process in running] == [0, 0, 0]
    for name in names:
        assert [record["number"] for record in told if record["service"] == name] == list(range(3000))


def test_the_notice_is_written_even_if_no_line_follows(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, notice=notice, limit=1000)
    while not writer.dropped:
        writer.write(line(0))
    reading = threading.Thread(target=drain, args=(pipe,))
    reading.start()
    assert writer.flush(within=10.0)
    os.close(pipe.writer)
    reading.join()
    assert pipe.text.endswith(b"1 missing\n")


def drain(pipe: Pipe) -> None:
    """Read until every writer has closed the pipe, or the notice has come."""
    while not pipe.read().endswith(b"missing\n"):
        pass
