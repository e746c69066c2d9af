"""Figures that outlive their process: batches in a file beside the router's state file, one for each process.

Of `router-proxy.json` these are `router-proxy.figures-0.json`, `router-proxy.figures-1.json` and so on. A process
holds the lock of its own (`….lock`) for as long as it runs; what a process left behind, the next one takes over.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import structlog

from athena import files
from athena.router.batch import Batch

MOST_PROCESSES = 4096
log = structlog.get_logger()


class Spool:
    """The spool of one process. A batch keeps its id on the way through it, so that it counts once in any case."""

    def __init__(self, state_file: Path) -> None:
        self._folder = state_file.parent
        self._stem = f"{state_file.stem}.figures-"
        self._lock: int | None = None
        self.file: Path | None = None

    def open(self) -> list[Batch]:
        """Take a file of its own and return what this and all files without an owner hold. Raises OSError.

        What was taken over from others is in the own file before theirs are removed: a process that is killed in
        between leaves it twice, under the same ids.
        """
        self._lock, self.file = self._own()
        batches = _read(self.file)
        others = list(self._abandoned())
        try:
            for file, _ in others:
                known = {batch.batch_id for batch in batches}
                batches += [batch for batch in _read(file) if batch.batch_id not in known]
            if others:
                self.save(batches)
            for file, _ in others:
                file.unlink(missing_ok=True)
        finally:
            for _, lock in others:
                os.close(lock)
        return batches

    def save(self, batches: Sequence[Batch]) -> None:
        """Replace what the file holds; nothing to hold: no file. Raises OSError. Any thread may call it."""
        if self.file is None:
            return
        if batches:
            files.replace(self.file, msgspec.json.encode(batches))
        else:
            self.file.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; whoever comes next takes over what is in it."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = self.file = None

    def _own(self) -> tuple[int, Path]:
        for number in range(MOST_PROCESSES):
            file = self._folder / f"{self._stem}{number}.json"
            lock = _try_lock(file)
            if lock is not None:
                return lock, file
        raise OSError(f"{MOST_PROCESSES} processes have a spool beside {self._folder / self._stem}*.json")

    def _abandoned(self) -> Iterator[tuple[Path, int]]:
        """Yield the files of processes that are no more, each with its lock."""
        for file in sorted(self._folder.iterdir()):
            if file.name.startswith(self._stem) and file.suffix == ".json" and file != self.file:
                lock = _try_lock(file)
                if lock is not None:
                    yield file, lock


def _try_lock(file: Path) -> int | None:
    """Return the lock of a spool file, held until it is closed; None where another process holds it."""
    # Not the file itself: replacing that would leave the lock behind on the old one.
    lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _read(file: Path) -> list[Batch]:
    """Return the batches of a file; one that is not understood is moved aside, for a person to look at."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[Batch])
    except FileNotFoundError:
        return []
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        aside = file.with_suffix(".corrupt")
        log.error("figures_spool_corrupt", file=str(file), error=str(error), moved_to=str(aside))  # noqa: TRY400
        file.replace(aside)
        return []
