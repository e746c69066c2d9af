"""Several processes that serve on one socket, and the parent that keeps them alive."""

import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

import structlog

from athena.ending import Ending
from athena.errors import AthenaError

BACKLOG = 2048
_SETTLED_SECONDS = 5.0  # a worker that lived for so long is started again at once
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 10.0
_SECONDS_BEYOND_ENDING = 10.0  # for a worker to hand over its figures, before it is killed
_HEEDED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
HURRY = signal.SIGUSR1
log = structlog.get_logger()


class Lifeline:
    """What ties a worker to its parent: `descriptor` is at its end when the parent is gone."""

    def __init__(self, descriptor: int, ready: int) -> None:
        self.descriptor = descriptor
        self._ready = ready

    def ready(self) -> None:
        """Tell the parent that this worker serves."""
        os.write(self._ready, b"\1")


class _Worker:
    """One place among the workers, and who holds it."""

    __slots__ = ("index", "pause", "pid", "restart_at", "started")

    def __init__(self, index: int) -> None:
        self.index = index
        self.pid = 0
        self.started = 0.0
        self.pause = 0.0
        self.restart_at = 0.0


class Workers:
    """Forks `count` workers that each run `work(index, lifeline)`, and starts another for one that dies.

    On SIGTERM or SIGINT the workers get SIGTERM, and may take as long as `ending` says, and some more to put down what
    they have counted; a second SIGINT hurries them with SIGUSR1. `died(index)` is called after a death.
    """

    def __init__(
        self,
        count: int,
        listener: socket.socket,
        work: Callable[[int, Lifeline], None],
        *,
        ending: Ending,
        died: Callable[[int], None],
    ) -> None:
        self._workers = [_Worker(index) for index in range(count)]
        self._listener = listener
        self._work = work
        self._seconds = ending.seconds + _SECONDS_BEYOND_ENDING
        self._died = died
        self._signals, self._signals_in = os.pipe()
        self._ready, self._ready_in = os.pipe()
        self._life, self._life_held = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(self._signals_in, False)
        self._serving = 0  # how many have ever said that they serve
        self._kill_at = 0.0
        self._ending = False
        self._failed = False

    def run(self) -> bool:
        """Keep the workers going until a signal; False says that they could not be started at all."""
        self._listener.listen(BACKLOG)
        signal.set_wakeup_fd(self._signals_in)
        for number in _HEEDED:
            signal.signal(number, _heed)
        gc.collect()
        gc.freeze()  # so that the collector does not write into what the workers share with their parent
        for worker in self._workers:
            self._start(worker)
        while not self._ending or any(worker.pid for worker in self._workers):
            self._wait()
            self._reap()
            self._restart()
        return not self._failed

    def _wait(self) -> None:
        wanted = [worker.restart_at for worker in self._workers if not worker.pid and not self._ending]
        if self._kill_at:
            wanted.append(self._kill_at)
        timeout = max(0.0, min(wanted) - time.monotonic()) if wanted else None
        readable, _, _ = select.select([self._signals, self._ready], [], [], timeout)
        if self._ready in readable:
            before, self._serving = self._serving, self._serving + len(os.read(self._ready, 4096))
            if before < len(self._workers) <= self._serving:
                host, port = self._listener.getsockname()[:2]
                log.info("listening", host=host, port=port, workers=len(self._workers))
        if self._signals in readable:
            for number in os.read(self._signals, 4096):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._end(hurry=self._ending and number == signal.SIGINT)
        if self._kill_at and time.monotonic() >= self._kill_at:
            self._kill_at = 0.0
            self._send(signal.SIGKILL)

    def _end(self, *, hurry: bool) -> None:
        if not self._ending:
            self._ending = True
            self._kill_at = time.monotonic() + self._seconds
            self._listener.close()
            self._send(signal.SIGTERM)
        elif hurry:
            self._send(HURRY)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, number)

    def _reap(self) -> None:
        for worker in self._workers:
            if not worker.pid:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: _Worker, status: int) -> None:
        now = time.monotonic()
        pid, worker.pid = worker.pid, 0
        self._died(worker.index)
        if self._ending:
            return
        if now - worker.started < _SETTLED_SECONDS:
            worker.pause = min(_LONGEST_PAUSE_SECONDS, worker.pause * 2 or _FIRST_PAUSE_SECONDS)
        else:
            worker.pause = 0.0
        worker.restart_at = now + worker.pause
        log.error("worker_died", worker=worker.index, pid=pid, status=status, restarted_after=worker.pause)
        if not self._serving and status > 0:
            self._failed = True  # it said itself why it cannot start; the next could not either
            self._end(hurry=False)

    def _restart(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if not worker.pid and not self._ending and now >= worker.restart_at:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        # No signal may reach the child while it still has its parent's handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)
        worker.started = time.monotonic()
        pid = os.fork()
        if not pid:
            self._be(worker.index)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)
        worker.pid = pid

    def _be(self, index: int) -> None:
        """Be a worker, and never return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _HEEDED:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent passes it on
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)
            for descriptor in (self._signals, self._signals_in, self._ready, self._life_held):
                os.close(descriptor)
            self._work(index, Lifeline(self._life, self._ready_in))
            status = 0
        except AthenaError as error:
            sys.stderr.write(f"error: {error.detail}\n")
        except Exception:
            log.exception("worker_failed", worker=index)
        finally:
            os._exit(status)


def _heed(*_: object) -> None:
    """Let the signal's number be written to the pipe that the parent waits at."""
