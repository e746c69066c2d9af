"""What all worker processes of one proxy know of each backend, in memory that they share.

The board is made before the workers are forked. Each backend that anybody asks for gets a slot of cells, each a double
that is written in one piece: some are common, some belong to one worker each. Without workers it works the same.
The limits of API keys have slots of their own here, whose common cells are theirs to use.
"""

import fcntl
import mmap
import os
import tempfile
from contextlib import suppress
from hashlib import blake2b
from typing import IO, Final, TypeAlias

import structlog

SLOTS = 8192
WORKERS = 64  # the most that a board can be made for
# Common cells of a slot, by their place in it.
SHUT: Final = 2
STATE: Final = 3
FAILURES: Final = 4
LEVEL: Final = 5
CHANGED_AT: Final = 6
RETRY_AT: Final = 7
REASON: Final = 8
PAUSED_UNTIL: Final = 9
TRIPS: Final = 10
SERVICE_SECONDS: Final = 11
SAMPLES: Final = 12
GENERATED_AT: Final = 13
PROGRESS_AT: Final = 14
BUSY_AT: Final = 15
STUCK_AT: Final = 16
SILENT_AT: Final = 17
CHECKED_AT: Final = 18
DOUBTED_UNTIL: Final = 19
CAN: Final = 20  # what the model of a backend was found to do
CONTEXT: Final = 21
RESIDENCE: Final = 22
LOAD_SECONDS: Final = 23
BOUND_AT: Final = 24
_COMMON = 25
_OWN = 3  # IN_USE, WAITING and HEAD of each worker
_HEADER = 8  # cells before the first slot
_PROBED_AT = 0
_PROBER_MISSED_AFTER = 3.0  # seconds without a sign of the prober, after which requests have to make trials themselves
log = structlog.get_logger()

Cells: TypeAlias = "memoryview[float]"


class BoardError(Exception):
    """The board was asked for something that it was not made for."""


class Board:
    """One for all workers of a proxy, or for a single process.

    A worker calls `attach` once after the fork; the parent calls `forget_worker` when one has died. A board without
    room (`slots` backends were named since it was made) gives the others slots of the process's own: their limits and
    breakers then hold for each worker by itself.
    """

    def __init__(self, workers: int = 1, *, slots: int = SLOTS) -> None:
        if not 1 <= workers <= WORKERS:
            raise BoardError(f"a board is for 1 to {WORKERS} workers, not {workers}")
        self.workers = workers
        self.worker = 0
        self._slots = slots
        self._size = _COMMON + _OWN * workers
        self._memory = mmap.mmap(-1, 8 * (_HEADER + slots * self._size))
        self.cells: Cells = memoryview(self._memory).cast("d")
        self._private: dict[tuple[str, str, str], Cells] = {}
        self._lock_file: IO[bytes] | None = None
        self.lock_descriptor = -1
        self._bells: list[tuple[int, int]] = []
        if workers > 1:
            # Locks of the kernel's: those of a worker that is killed are free at once.
            self._lock_file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the board
            self.lock_descriptor = self._lock_file.fileno()
            self._bells = [_pipe() for _ in range(workers)]

    def attach(self, worker: int) -> None:
        """Say which worker this process is: 0 up to `workers` - 1."""
        if not 0 <= worker < self.workers:
            raise BoardError(f"there is no worker {worker} of {self.workers}")
        self.worker = worker

    def slot(self, engine: str, endpoint: str, model: str) -> "Slot":
        """Return the slot of a backend, the same for every worker."""
        key = (engine, endpoint, model)
        digest = blake2b("\0".join(key).encode(), digest_size=12).digest()
        high, low = int.from_bytes(digest[:6], "big") + 1.0, int.from_bytes(digest[6:], "big") + 1.0
        first = int(low) % self._slots
        cells = self.cells
        with self.locked(0):
            for step in range(self._slots):
                number = (first + step) % self._slots
                start = _HEADER + number * self._size
                if not cells[start]:
                    cells[start], cells[start + 1] = high, low
                elif cells[start] != high or cells[start + 1] != low:
                    continue
                return Slot(self, cells[start : start + self._size], number + 1)
        if key not in self._private:
            log.warning("board_full", slots=self._slots, model=model, backend_type=engine, endpoint=endpoint)
            self._private[key] = memoryview(bytearray(8 * self._size)).cast("d")
        return Slot(self, self._private[key], self._slots + 1)

    def forget_worker(self, worker: int) -> None:
        """Take what a dead worker had in use off all slots, and let the others go on with it."""
        size, cells = self._size, self.cells
        for start in range(_HEADER, _HEADER + self._slots * size, size):
            if cells[start]:
                for own in range(_OWN):
                    cells[start + _COMMON + own * self.workers + worker] = 0.0
        for other in range(self.workers):
            self.wake(other)

    def wake(self, worker: int) -> None:
        """Let a worker look at once whether it can go on."""
        if self._bells:
            with suppress(BlockingIOError):  # it is full of calls that the worker has not heard yet
                os.write(self._bells[worker][1], b"\0")

    @property
    def bell(self) -> int | None:
        """The descriptor that becomes readable when this worker is woken; None without other workers."""
        return self._bells[self.worker][0] if self._bells else None

    def hear(self) -> None:
        """Take the calls off the bell."""
        bell = self.bell
        if bell is not None:
            try:
                while len(os.read(bell, 4096)) == 4096:  # noqa: PLR2004 - as much as was asked for
                    pass
            except BlockingIOError:
                pass  # another call heard it already

    def prober_lives(self, now: float) -> bool:
        """Whether some worker probes, so that requests need not try whether a backend has recovered."""
        return now - self.cells[_PROBED_AT] < _PROBER_MISSED_AFTER

    def note_prober(self, now: float) -> None:
        """Leave the prober's sign of life; a `now` of 0 says that it has ended."""
        self.cells[_PROBED_AT] = now

    def locked(self, number: int) -> "_Lock":
        """Return the lock with a number, for a `with` of a few microseconds; none is needed without other workers."""
        return _Lock(self.lock_descriptor, number)

    def close(self) -> None:
        """Give the locks and bells back; the cells stay usable by those who still hold a slot."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file, self.lock_descriptor = None, -1
        for pair in self._bells:
            for descriptor in pair:
                os.close(descriptor)
        self._bells = []


class Slot:
    """The cells of one backend: `cells[STATE]` and the like, and for each worker what it has in use and waiting.

    `head` is the oldest waiter's time of a worker, 0 without one.
    """

    __slots__ = ("__weakref__", "_board", "_number", "cells", "head", "in_use", "lock_at", "of_workers", "waiting")

    def __init__(self, board: Board, cells: Cells, number: int) -> None:
        workers = board.workers
        self.cells = cells
        self.in_use = _COMMON + board.worker
        self.waiting = _COMMON + workers + board.worker
        self.head = _COMMON + 2 * workers + board.worker
        self.of_workers = tuple(cells[_COMMON + own * workers : _COMMON + (own + 1) * workers] for own in range(_OWN))
        self.lock_at = (board.lock_descriptor, number)
        self._board = board
        self._number = number

    def locked(self) -> "_Lock":
        """Return the lock of the slot."""
        return self._board.locked(self._number)

    def total_in_use(self) -> int:
        """Return how many requests all workers have at the backend."""
        return int(sum(self.of_workers[0]))

    def total_waiting(self) -> int:
        """Return how many wait for it in all workers."""
        return int(sum(self.of_workers[1]))

    def longest_waiting_worker(self) -> int | None:
        """Return the worker in which somebody has waited longest, whatever its priority, or None where nobody waits."""
        heads = [(head, worker) for worker, head in enumerate(self.of_workers[2]) if head]
        return min(heads)[1] if heads else None


class _Lock:
    """An exclusive lock on one byte of the board's lock file."""

    __slots__ = ("_descriptor", "_number")

    def __init__(self, descriptor: int, number: int) -> None:
        self._descriptor = descriptor
        self._number = number

    def __enter__(self) -> None:
        if self._descriptor >= 0:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, self._number)

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, self._number)


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends
