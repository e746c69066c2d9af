"""The two ends of every measurement, a Go program of our own (folder `go`): an engine, and the load."""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench.machine import CACHE, LOAD_CORE, UnavailableError, environment, free_port, pinned, running

SOURCE = Path(__file__).with_name("go")
PROMPT = "Tell me about the weather in the mountains, please. " * 18
MODEL = "bench"


def build() -> Path:
    """Return the built program; quick where nothing changed. Raises UnavailableError without Go, or not on Linux."""
    program = CACHE / "traffic"
    CACHE.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        [go(), "build", "-o", str(program), "."], cwd=SOURCE, env=environment({"GOFLAGS": "-buildvcs=false"}),
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if built.returncode:
        raise UnavailableError(f"the load cannot be built:\n{built.stderr}")
    return program


def go() -> str:
    """Return the Go command. Raises UnavailableError without it, and where the load cannot run."""
    if sys.platform != "linux":
        raise UnavailableError("the benchmark needs Linux: its load and its engine are built on epoll")
    command = shutil.which("go") or "/usr/local/go/bin/go"
    if not Path(command).exists():
        raise UnavailableError("Go is missing (Debian package golang-go)")
    return command


class Met(NamedTuple):
    """How many prompts an engine met: all, those of them 3 s after the first or later, the most in any one second."""

    prompts: int
    late: int
    most: int


@dataclass(frozen=True)
class Engine:
    """A running engine of ours. `dialect` is `openai`, `ollama` or `mlx`."""

    port: int
    dialect: str

    @property
    def url(self) -> str:
        """Its base, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def set(self, *, tokens: int = 100, pace_us: int = 0, hang: bool = False) -> None:
        """Say how long streams are, how far apart their tokens, and whether prompts are answered at all."""
        self._ask(f"?tokens={tokens}&pace_us={pace_us}&hang={int(hang)}")

    def met(self) -> "Met":
        """Return how many prompts have met it since it was last set. Probes do not count."""
        return Met(**json.loads(self._ask("")))

    def _ask(self, query: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}/bench{query}", timeout=10) as answer:  # noqa: S310 - our own engine
            return bytes(answer.read())


@contextmanager
def engine(program: Path, dialect: str) -> Iterator[Engine]:
    """Run an engine beside the load."""
    port = free_port()
    command = [str(program), "engine", "-port", str(port), "-dialect", dialect]
    with running(command, core=LOAD_CORE, port=port):
        yield Engine(port, dialect)


@dataclass(frozen=True)
class Times:
    """Durations in milliseconds."""

    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What came of a load. `faults` counts the prompts without a right answer, by what was wrong with them."""

    sent: int
    answered: int
    seconds: float
    faults: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    latency: Times = Times()
    first: Times = Times()
    delay: Times = Times()


@dataclass(frozen=True)
class Prompts:
    """What is sent: see `traffic load -help`. `tokens` 0: whole answers."""

    tokens: int = 0
    connections: int = 64
    seconds: float = 3.0
    requests: int = 0
    rate: float = 0.0
    ramp: float = 0.0


def send(program: Path, url: str, prompts: Prompts, headers: Sequence[str], folder: Path) -> Outcome:
    """Send prompts to a URL and return what came of them."""
    command = _command(program, url, prompts, headers, folder)
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(result.stdout)
    times = {name: Times(**found[f"{name}_ms"]) for name in ("latency", "first", "delay") if f"{name}_ms" in found}
    return Outcome(found["sent"], found["answered"], found["seconds"], found["faults"], found.get("tokens", 0), **times)


@contextmanager
def sending(program: Path, url: str, prompts: Prompts, headers: Sequence[str], folder: Path) -> Iterator[None]:
    """Send prompts to a URL meanwhile; the end waits for the last of them."""
    process = subprocess.Popen(_command(program, url, prompts, headers, folder), stdout=subprocess.DEVNULL)
    try:
        yield
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()


def _command(program: Path, url: str, prompts: Prompts, headers: Sequence[str], folder: Path) -> list[str]:
    message = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "stream": prompts.tokens > 0}
    body = folder / f"prompt-{int(prompts.tokens > 0)}.json"
    body.write_text(json.dumps(message, separators=(",", ":")), encoding="utf-8")
    options = {"url": url, "body": str(body), **vars(prompts)}
    command = [str(program), "load", *(f"-{name}={value}" for name, value in options.items())]
    return pinned(LOAD_CORE, [*command, *(f"-header={header}" for header in headers)])
