"""The metrics of several worker processes as one: each publishes its own in a file, any of them adds up all."""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from athena.observability.families import Published, Series

SHARE_SECONDS = 1.0
log = structlog.get_logger()


class _State(msgspec.Struct):
    """What one worker has published. A worker that has ended properly has no gauges here."""

    pid: int
    counted: dict[str, list[Series]]
    gauges: dict[str, list[Series]]


class Worker(msgspec.Struct):
    """Another worker as it last published: its gauges only while it lives."""

    index: int
    pid: int | None
    series: Mapping[str, Sequence[Series]]


class Edition(NamedTuple):
    """What a worker publishes, and which one of all that it published."""

    number: int
    text: bytes


_decode = msgspec.msgpack.Decoder(_State).decode
_encode = msgspec.msgpack.encode


class SharedMetrics:
    """The files in `directory`, which exists and belongs to this start of the proxy alone.

    `index` is this worker's, of 0 to `count` - 1; one that is started in the place of another goes on from its counts.
    It publishes every `every` seconds. With one worker nothing is read or written.
    """

    def __init__(self, directory: Path, index: int, count: int, *, every: float = SHARE_SECONDS) -> None:
        self.index = index
        self.every = every
        self._directory = directory
        self._count = count
        self._editions = 0
        self._published = 0
        self._writing = threading.Lock()
        self._written = b""
        self._failing = False

    @property
    def alone(self) -> bool:
        """Whether there is no other worker."""
        return self._count == 1

    def restored(self) -> Published:
        """Return what the worker in whose place this one stands had counted."""
        state = None if self.alone else self._load(self.index)
        return {} if state is None else state.counted

    def publish(self, counted: Published, gauges: Published) -> None:
        """Replace what this worker has published, in one step, if it has changed."""
        self.write(self.edition(counted, gauges))

    def edition(self, counted: Published, gauges: Published) -> "Edition":
        """Return what `write` is to publish; quick, and of the thread that counts."""
        self._editions += 1
        return Edition(self._editions, _encode({"pid": os.getpid(), "counted": counted, "gauges": gauges}))

    def write(self, edition: "Edition") -> None:
        """Publish an edition unless a later one is out. From any thread: a disk may take its time."""
        with self._writing:
            if edition.number > self._published and not self.alone:
                self._published = edition.number
                if edition.text != self._written:
                    self._replace(edition.text)

    def _replace(self, text: bytes) -> None:
        file = self._file(self.index)
        fresh = file.with_suffix(".new")
        try:
            fresh.write_bytes(text)
            fresh.replace(file)
        except OSError as error:
            if not self._failing:
                log.warning("metrics_not_shared", file=str(file), error=str(error))
            self._failing = True
        else:
            self._written = text
            self._failing = False

    def others(self) -> Iterator[Worker]:
        """Yield what the other workers last published."""
        for index in range(self._count):
            if index != self.index and (state := self._load(index)) is not None:
                if _lives(state.pid):
                    yield Worker(index, state.pid, {**state.counted, **state.gauges})
                else:
                    yield Worker(index, None, state.counted)

    def processes(self) -> Iterator[tuple[int, int]]:
        """Yield the index and the process id of each worker that lives."""
        others = [(worker.index, worker.pid) for worker in self.others() if worker.pid is not None]
        yield from sorted([(self.index, os.getpid()), *others])

    def _file(self, index: int) -> Path:
        return self._directory / f"metrics-{index}.msgpack"

    def _load(self, index: int) -> _State | None:
        file = self._file(index)
        try:
            return _decode(file.read_bytes())
        except FileNotFoundError:
            return None  # it has not published yet
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("metrics_not_read", file=str(file), error=str(error))
            return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
