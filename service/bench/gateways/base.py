"""What the benchmark must know of a gateway."""

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import UnavailableError, environment
from bench.traffic import Engine

TIME_OUT_SECONDS = 5  # for an engine that does not answer, where a gateway can be told


@dataclass(frozen=True)
class Start:
    """How a configured gateway is started, and what its callers send besides the prompt; `within` so many seconds."""

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Sequence[str] = ()
    path: str = "/v1/chat/completions"
    within: float = 20.0


class Gateway(ABC):
    """One of those that are measured.

    `translates`: the engines' dialects, other than OpenAI's, that it gives an OpenAI caller; `routes`: it takes several
    engines at once.
    """

    name: str
    translates: tuple[str, ...] = ()
    routes = True

    @abstractmethod
    def obtain(self) -> str:
        """Install it if it is not there and return its version. Raises UnavailableError with the reason."""

    @abstractmethod
    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """Write its configuration into a folder and return how it is started."""


def output(*command: str | Path, cwd: Path | None = None) -> str:
    """Return what a program prints. Raises UnavailableError, with that, if it fails or is not there."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment(),
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise UnavailableError(str(error)) from error
    if done.returncode:
        raise UnavailableError(f"{command[0]} failed: {done.stdout.strip()[-1000:]}")
    return done.stdout
