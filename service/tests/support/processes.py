"""The command `athena` as a user runs it: a process of its own, with the environment that a test gives it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ATHENA = str(Path(sys.executable).with_name("athena"))
READY_WITHIN_SECONDS = 30.0
COMMAND_WITHIN_SECONDS = 60.0
TOLD_WITHIN_SECONDS = 5.0
_COMPLAINTS = ("error", "critical")
OURS = {
    *(
        "DATABASE_URL",
        "JWT_SECRET",
        "ADMIN_API_TOKEN",
        "ADMIN_API_URL",
        "CONNECT_SECONDS",
        "OLLAMA_URL",
        "REDIS_URL",
        "LOG_LEVEL",
    ),
    *("ATHENA_LOG_CONTENT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    *("ROUTER_STATE_FILE", "CONFIG_CACHE_SECONDS", "ORCHESTRATOR_INTENTS_FILE"),
    *("PROXY_API_KEYS_FILE", "PROXY_ASK_FOR_KEYS", "PROXY_WORKERS", "QUEUE_SECONDS"),
    *("PROXY_URL", "PROXY_API_KEY", "ROUTER_AUTO_POLICY", "ROUTER_HOST_POLICY"),
    *("AGENT_CONFIG", "AGENT_STATE_FILE"),
}


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a process: this one's, with these of Athena's variables and no others."""
    return {**{name: value for name, value in os.environ.items() if name not in OURS}, **variables}


def athena(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [ATHENA, *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_SECONDS,
        check=False,
    )


class Server:
    """One `athena serve …`; `url` has no trailing slash."""

    def __init__(
        self, role: str, log: Path, variables: Mapping[str, str], port: int = 0, arguments: Sequence[str] = ()
    ) -> None:
        """Start it and wait until it listens; fails with the log if it does not."""
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [ATHENA, "serve", role, "--port", str(port), "--grace", "5", *arguments],
                env=environment(**variables),
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while not (listening := self.events("listening")):
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        self.port: int = listening[0]["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, Any]]:
        """Return what it logged so far."""
        complete = self._log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in complete.splitlines() if line.startswith("{")]

    def complaints(self) -> list[str]:
        """Return what it logged as an error, and what is no line of its log, such as a traceback."""
        lines = self._log.read_text().splitlines()
        return [line for line in lines if not line.startswith("{") or json.loads(line)["level"] in _COMPLAINTS]

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        return [line for line in self.lines() if line["event"] == event]

    def told(self, event: str) -> dict[str, Any]:
        """Return the last log line of one event, once there is one: lines are written a moment after they are made."""
        deadline = time.monotonic() + TOLD_WITHIN_SECONDS
        while not (lines := self.events(event)):
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.01)
        return lines[-1]

    def stop(self) -> int:
        """Send SIGTERM and return the exit status; no harm if it has ended."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(role: str, log: Path, *arguments: str, **variables: str) -> Iterator[Server]:
    """Run one process of the system for as long as the context is entered."""
    server = Server(role, log, variables, arguments=arguments)
    try:
        yield server
    finally:
        server.kill()
