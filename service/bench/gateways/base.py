"""What the benchmark must know of a gateway."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
