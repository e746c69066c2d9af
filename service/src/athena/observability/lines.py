"""The one way by which all lines of a process leave it: collected for a moment, then written many at a time.

A line costs a fraction of a microsecond until the batch is full. Whoever reads the lines may be slow or gone: the event
loop never waits for it, memory stays bounded, and what could not be kept is counted and told.
"""

import asyncio
import os
import select
import stat
import sys
import threading
import time
from asyncio import (
    _get_running_loop,
)  # None outside a loop, where get_running_loop() raises at the cost of an exception
from collections import deque
from collections.abc import Callable

BATCH_BYTES = 32 * 1024
LIMIT_BYTES = 4 * 1024 * 1024
DELAY_SECONDS = 0.1
RETRY_SECONDS = 0.005

_GAP = b""  # stands among the lines where some were dropped
_NOBODY = object()


class LineWriter:
    """Writes lines to a descriptor, in their order, each whole.

    Inside an event loop a line is written with the next batch: when `batch` bytes are there, and at the latest `delay`
    seconds after its batch's first line. Outside of one it is written at once. What the descriptor refuses is kept
    up to `limit` bytes and offered again every `retry` seconds while it is full, every `delay` seconds after an error;
    beyond that the newest lines are dropped, and the line that `notice(count)` makes is put where they are missing.

    Any thread may write. Several processes may write to one pipe or file: no line of up to `select.PIPE_BUF` bytes is
    mixed with another's. `dropped` says how many lines were dropped since the start.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        notice: Callable[[int], bytes],
        batch: int = BATCH_BYTES,
        limit: int = LIMIT_BYTES,
        delay: float = DELAY_SECONDS,
        retry: float = RETRY_SECONDS,
    ) -> None:
        """Raises OSError where the descriptor is not open."""
        # A regular file takes whatever it is given; anything else may be full, and mixes larger writes than these.
        self._waits = not stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._descriptor = _never_blocking(descriptor) if self._waits else descriptor
        self._notice = notice
        self._batch = batch
        self._limit = limit
        self._delay = delay
        self._retry = retry
        self.start_anew()

    def start_anew(self) -> None:
        """Forget what is there: it is another process's to write. For a forked child."""
        self.dropped = 0
        self._lock = threading.RLock()
        self._lines: deque[bytes] = deque()
        self._gaps: deque[int] = deque()  # for each gap among the lines, how many are missing
        self._piece = b""  # taken from the lines, not yet written
        self._size = 0  # bytes of both; exact whenever there are none
        self._attention = min(self._batch, self._limit)  # the size at which a line needs more than to be kept
        self._stalled = False  # the descriptor did not take all at the last try
        self._failing = False  # because of an error, not because it was full
        self._loop: object = _NOBODY  # whose timer will write what is there

    def write(self, line: bytes) -> None:
        """Take one line, its line end included."""
        self._lines.append(line)
        self._size = size = self._size + len(line)
        if size >= self._attention or self._loop is not _get_running_loop():
            self._attend()

    def write_now(self, line: bytes) -> None:
        """Take one line that must not wait, and write it after all before it."""
        self.write(line)
        if not self._stalled:
            self.flush()

    def flush(self, within: float = 0.0) -> bool:
        """Write all that is there, waiting at most `within` seconds for a reader; return whether all is written.

        At a process's end it is to be called by whoever ends it without Python's own exit, as `os._exit` does.
        """
        with self._lock:
            self._stalled = not self._write_all(time.monotonic() + within)
            if not self._stalled:
                self._size = 0
            self._attention = min(self._size + self._batch, self._limit)
            return not self._stalled

    def _attend(self) -> None:
        loop = _get_running_loop()
        if loop is not None and loop is not self._loop:
            self._loop = loop
            loop.call_later(self._delay, self._on_time, loop)
        # At the limit only the timer tries again: otherwise every dropped line would.
        hopeless = self._stalled and self._size >= self._limit
        if loop is None or (self._size >= self._attention and not hopeless):
            self.flush()
        if self._size > self._limit:
            self._drop()

    def _on_time(self, loop: asyncio.AbstractEventLoop) -> None:
        done = self.flush()
        if self._loop is loop:
            if done:
                self._loop = _NOBODY
            else:
                loop.call_later(self._delay if self._failing else self._retry, self._on_time, loop)

    def _drop(self) -> None:
        with self._lock:
            count = 0
            while self._size > self._limit and self._lines and self._lines[-1] != _GAP:
                self._size -= len(self._lines.pop())
                count += 1
            self.dropped += count
            if self._lines and self._lines[-1] == _GAP:
                self._gaps[-1] += count
            elif count:
                self._lines.append(_GAP)
                self._gaps.append(count)

    def _write_all(self, deadline: float) -> bool:
        while True:
            if not self._piece:
                self._piece = self._next_piece()
                if not self._piece:
                    return True
            try:
                if self._waits and not self._takes_more(deadline):
                    return False
                written = os.write(self._descriptor, self._piece)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                continue  # another process was quicker to fill it
            except OSError:
                # The reader has gone, the disk is full: nobody can be told until that is over, and then the gaps do.
                self._failing = True
                return False
            self._failing = False
            self._piece = self._piece[written:]
            self._size -= written

    def _takes_more(self, deadline: float) -> bool:
        wait = max(0.0, deadline - time.monotonic())
        return bool(select.select((), (self._descriptor,), (), wait)[1])

    def _next_piece(self) -> bytes:
        """Take as many lines as may be written at once, but at least one; empty if there are none."""
        lines = self._lines
        if not self._waits and not self._gaps:
            return b"".join([lines.popleft() for _ in range(len(lines))])
        taken: list[bytes] = []
        size = 0
        while lines and (not taken or (lines[0] != _GAP and size + len(lines[0]) <= select.PIPE_BUF)):
            line = lines.popleft()
            if line == _GAP:
                line = self._notice(self._gaps.popleft())
                self._size += len(line)
            taken.append(line)
            size += len(line)
        return b"".join(taken)


def _never_blocking(descriptor: int) -> int:
    """Return a descriptor of the same pipe that never blocks, where the system lets it be opened anew.

    To make the given one non-blocking would do the same to every process that shares it. Elsewhere the writer asks
    whether it takes more before each write, which suffices unless another process fills it in that moment.
    """
    if sys.platform == "linux" and stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        try:
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # no /proc, or the pipe belongs to another user
            return descriptor
    return descriptor
