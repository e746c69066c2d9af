"""A real engine's process under a test's control."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

READY_WITHIN_SECONDS = 60.0


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EngineServer:
    """An engine on a free port of 127.0.0.1, the same port after every restart.

    `url` has no trailing slash; `model` is the one name by which the engine knows its model.
    """

    def __init__(
        self,
        *,
        command: Callable[[int], list[str]],
        environment: Callable[[int], dict[str, str]],
        model: str,
        ask: Callable[[str, str, str], str],
        log: Path,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.model = model
        self.environment = {**os.environ, **environment(self.port)}
        self._command = command(self.port)
        self._ask = ask
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None while the engine is down."""
        return self._process.pid if self._process else None

    def start(self, *, probe: bool = True) -> None:
        """Start the engine and wait until it answers a question; with `probe=False` until it accepts connections.

        Raises RuntimeError with the end of the engine's log if it does not come up.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if probe:
            self.wait_until_it_answers()
        else:
            self._wait(lambda: socket.create_connection(("127.0.0.1", self.port), timeout=1).close())

    def wait_until_it_answers(self) -> None:
        """Wait until a generation of one token succeeds: an open port says nothing about an engine's health."""
        self._wait(lambda: self.ask("ready?"))

    def ask(self, prompt: str) -> str:
        """Return the reply to a prompt of a few tokens. Raises OSError if the engine gives none."""
        return self._ask(self.url, self.model, prompt)

    def kill(self) -> None:
        """End the engine and all its children at once, as `kill -9` does; no harm if it is down already."""
        if self._process is None:
            return
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """Stop the engine as SIGSTOP does: the kernel goes on accepting connections, but nothing is generated."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the engine go on."""
        self._signal(signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """Return the processor time that the engine and its children have used so far."""
        if self._process is None:
            raise RuntimeError("the engine is down")
        group = str(os.getpgid(self._process.pid))
        used = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            if fields[2] == group:
                used += int(fields[11]) + int(fields[12])
        return used / os.sysconf("SC_CLK_TCK")

    def restart(self) -> None:
        """Kill the engine if it is up, and start it again on the same port."""
        self.kill()
        self.start()

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise RuntimeError("the engine is down")
        os.killpg(self._process.pid, number)

    def _wait(self, attempt: Callable[[], object]) -> None:
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while True:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"{self._command[0]} ended while it started:\n{self._end_of_log()}")
            try:
                attempt()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self._command[0]} does not answer: {error}\n{self._end_of_log()}") from error
                time.sleep(0.1)
            else:
                return

    def _end_of_log(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def ask_ollama(url: str, model: str, prompt: str) -> str:
    """Return the start of an Ollama's reply to a prompt. Raises OSError if there is none."""
    request = {"model": model, "prompt": prompt, "stream": False, "options": {"num_predict": 4}}
    return str(_post(f"{url}/api/generate", request)["response"])


def ask_mlx(url: str, model: str, prompt: str) -> str:
    """Return the start of a `mlx_lm.server`'s reply to a prompt. Raises OSError if there is none."""
    request = {"model": model, "prompt": prompt, "max_tokens": 4}
    return str(_post(f"{url}/v1/completions", request)["choices"][0]["text"])


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        reply = httpx.post(url, json=body, timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        raise OSError(f"{url}: {error!r}") from error
    answer: dict[str, Any] = reply.json()
    return answer
