"""A dev environment of its own: a copy of the repository, a state folder, ports, an empty package cache."""

import json
import os
import random
import re
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PARTS = ("admin", "proxy", "orchestrator", "mlx", "postgresql")


@dataclass(frozen=True)
class Finished:
    """What a run of deploy.sh left: its exit code, everything it printed, and how long it took."""

    code: int
    output: str
    seconds: float

    @property
    def changed(self) -> int:
        """The number of changed tasks that the last line but for deploy.sh's own words tells."""
        counts = re.findall(r"changed=(\d+)", self.output)
        assert counts, f"the run does not say what it changed:\n{self.output}"
        return int(counts[-1])


class Environment:
    """The environment `dev` of a copy of the repository, beside whatever this machine runs."""

    def __init__(self, folder: Path, clone: Path) -> None:
        self.clone = clone
        self.state = folder / "state"
        *ports, self.prometheus_port = free_ports(len(PARTS) + 1)
        self.ports = dict(zip(PARTS, ports, strict=True))
        self.variables = folder / "variables.json"
        folder.mkdir(exist_ok=True)
        self.variables.write_text(
            json.dumps(
                {
                    "athena_state_dir": str(self.state),
                    **{f"athena_{name}_port": port for name, port in self.ports.items()},
                    "athena_prometheus_port": self.prometheus_port,
                    "dev_engine": "mlx",
                    "mlx_model_source": "random",
                }
            )
        )
        # No cache of this machine's: the time of the first deployment is that of a fresh machine.
        self._process_environment = {**os.environ, "UV_CACHE_DIR": str(folder / "uv-cache"), "HOME": str(folder)}

    def command(self, action: str, *arguments: str) -> list[str]:
        return [str(self.clone / "deploy.sh"), "dev", action, "-e", f"@{self.variables}", *arguments]

    def start(self, action: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start deploy.sh in a session of its own."""
        return subprocess.Popen(
            self.command(action, *arguments),
            env={**self._process_environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def run(self, action: str, *arguments: str, **environment: str) -> Finished:
        began = time.monotonic()
        with self.start(action, *arguments, **environment) as process:
            output, _ = process.communicate()
        return Finished(process.returncode, output, time.monotonic() - began)

    def url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.ports[part]}"

    def ask(self, question: str = "What is 2+2?") -> httpx.Response:
        """Put a question to the orchestrator."""
        return httpx.post(f"{self.url('orchestrator')}/query", json={"query": question, "mode": "owner"}, timeout=60)

    def pid(self, part: str) -> int:
        """Return the process of a part, or of the `supervisor` itself. Raises AssertionError if it has none."""
        if part == "supervisor":
            written = (self.state / "supervisor" / "supervisord.pid").read_text().strip()
            assert written, "the supervisor's file is being written"
            return int(written)
        supervisorctl = self.state / "supervisor" / "venv" / "bin" / "supervisorctl"
        configuration = self.state / "supervisor" / "supervisord.conf"
        listing = subprocess.run(
            [supervisorctl, "-c", configuration, "status"], capture_output=True, text=True, check=False
        ).stdout
        found = re.search(rf"^{part}\s+RUNNING\s+pid (\d+)", listing, re.MULTILINE)
        assert found, listing
        return int(found[1])

    def processes(self) -> list[str]:
        """Return the command lines of all processes that have to do with this environment."""
        listing = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout
        return [line for line in listing.splitlines() if str(self.state) in line]

    def is_well(self) -> bool:
        """Return whether every service says that it is healthy and a question gets an answer."""
        try:
            for part in ("admin", "proxy", "orchestrator"):
                if httpx.get(f"{self.url(part)}/health", timeout=5).status_code != httpx.codes.OK:
                    return False
            return self.ask().status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def schema(self) -> str:
        """Return the revision of the database's schema."""
        athena = self.state / "current" / "bin" / "athena"
        database_url = (self.state / "secrets" / "database-url").read_text().strip()
        shown = subprocess.run(
            [athena, "migrate", "--show"],
            env={**os.environ, "DATABASE_URL": database_url},
            capture_output=True,
            text=True,
            check=True,
        )
        return str(json.loads(shown.stdout)["current"])

    def secrets(self) -> list[Path]:
        """Return the files of the environment's secrets."""
        return sorted((self.state / "secrets").iterdir())

    def releases(self) -> list[dict[str, Any]]:
        """Return the ledger's entries, oldest first."""
        entries = [json.loads(path.read_text()) for path in (self.state / "ledger").glob("*.json")]
        return sorted(entries, key=lambda entry: int(entry["id"].removeprefix("r")))


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 that nothing uses at the moment.

    They are below those that a system gives to whoever connects to somewhere (from 32768 on Linux, 49152 on macOS),
    because other tests run beside these and the ports are to be free for a long time.
    """
    ports: list[int] = []
    for port in random.sample(range(20000, 32768), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError(f"no {count} ports of 127.0.0.1 are free between 20000 and 32767")


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """Return how many seconds it took until the condition held. Raises AssertionError if it does not hold in time."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began
