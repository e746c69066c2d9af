"""A stand-in engine's process under a test's control: it can be told how to fail, killed, revived, frozen."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.support.faults.behaviours import BEHAVIOURS, UNREACHABLE
from tests.support.ports import quiet_port

SERVICE = Path(__file__).resolve().parents[3]


class Report(msgspec.Struct):
    """What an engine has seen since it started or was told to forget; `left` is when a caller left a prompt undone."""

    accepted: int
    connections: int
    running: int
    most_running: int
    prompts: list[str]
    left: dict[str, float]


class EngineProcess:
    """An engine on 127.0.0.1, at the same ports after every start. It serves until it is told something else."""

    def __init__(self, *, http10: bool = False) -> None:
        self.port = quiet_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._more_ports: dict[int, bool] = {}
        self._mode = "serve"
        self._http10 = http10
        self._only = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens, in the mode that it had."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.faults.engine", str(self.port), *["--http10"] * self._http10],
            cwd=SERVICE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._hear()
        for port, http10 in self._more_ports.items():
            self._tell(do="listen", port=port, http10=http10)
        if self._mode != "serve":
            self.become(self._mode, only=self._only)

    def kill(self) -> None:
        """End it at once, as `kill -9` does; no harm if it is down."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def freeze(self) -> None:
        """Stop it as SIGSTOP does: the kernel goes on accepting connections for it."""
        self._running.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._running.send_signal(signal.SIGCONT)

    def become(self, mode: str, *, only: str = "") -> None:
        """Meet requests in another way from now on: one of BEHAVIOURS or UNREACHABLE.

        With `only` those are served well whose prompts do not begin so, such as the proxy's own probes.
        """
        if mode not in BEHAVIOURS and mode not in UNREACHABLE:
            raise ValueError(f"there is no mode {mode}")
        self._mode = mode
        self._only = only
        self._tell(do="become", mode=mode, only=only)

    def another_url(self, *, http10: bool = False) -> str:
        """Open one more port: what is known of one address of the engine is not known of another.

        With `http10` it speaks like mlx_lm.server: HTTP/1.0, a connection for each request.
        """
        if self._mode in UNREACHABLE:
            raise RuntimeError(f"the engine is to {self._mode} its callers: open its ports before")
        port = quiet_port()
        self._more_ports[port] = http10
        self._tell(do="listen", port=port, http10=http10)
        return f"http://127.0.0.1:{port}"

    def report(self) -> Report:
        """Return what it has seen so far."""
        return msgspec.convert(self._tell(do="report"), Report)

    def forget(self) -> None:
        """Start the counts anew."""
        self._tell(do="forget")

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the engine is down")
        return self._process

    def _tell(self, **command: Any) -> dict[str, Any]:
        pipe = self._running.stdin
        assert pipe is not None
        pipe.write(json.dumps(command).encode() + b"\n")
        pipe.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        pipe = self._running.stdout
        assert pipe is not None
        line = pipe.readline()
        assert line, f"the stand-in engine ended with status {self._running.wait()}"
        heard: dict[str, Any] = json.loads(line)
        return heard


@contextmanager
def engine(mode: str = "serve", *, http10: bool = False) -> Iterator[EngineProcess]:
    """Run an engine for as long as the context is entered."""
    process = EngineProcess(http10=http10)
    process.start()
    try:
        process.become(mode)
        yield process
    finally:
        process.kill()
