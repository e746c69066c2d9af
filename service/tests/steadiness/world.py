"""A proxy as an operator runs it, a process of its own, between a registry and engines that can be told to fail."""

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.support.faults.process import EngineProcess, engine
from tests.support.ports import quiet_port
from tests.support.processes import Server, serving
from tests.support.registry import TOKEN, Registry

_PAGE, _TICK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
_SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Proxy:
    """A running `athena serve proxy`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.url
        self.pid = server.process.pid

    def wait_for_configuration(self) -> "Proxy":
        """Wait until it knows its registry's table."""
        within(5, lambda: httpx.get(self.url + "/health").json()["configuration"]["complete"])
        return self

    def series(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Return a metric's series: the labels of each, and its value."""
        lines = (_SERIES.match(line) for line in httpx.get(self.url + "/metrics").text.splitlines())
        return [(dict(_LABEL.findall(line[2] or "")), float(line[3])) for line in lines if line and line[1] == name]

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series that have these labels."""
        return sum(value for found, value in self.series(name) if labels.items() <= found.items())

    def metrics(self, name: str, label: str) -> dict[str, float]:
        """Return the sums of a metric's series by the value of a label."""
        sums: dict[str, float] = {}
        for found, value in self.series(name):
            sums[found[label]] = sums.get(found[label], 0) + value
        return sums

    def processes(self) -> list[Path]:
        """Return the folders of its processes in /proc: its own, and those of its workers."""
        own = Path(f"/proc/{self.pid}")
        children = (own / "task" / str(self.pid) / "children").read_text().split()
        return [own, *(Path("/proc") / child for child in children)]

    def descriptors(self) -> int:
        """Return how many files and connections it holds open."""
        return sum(len(list((folder / "fd").iterdir())) for folder in self.processes())

    def resident(self) -> int:
        """Return its resident memory in bytes."""
        return sum(int((folder / "statm").read_text().split()[1]) * _PAGE for folder in self.processes())

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used."""
        fields = [(folder / "stat").read_text().rpartition(")")[2].split() for folder in self.processes()]
        return sum(int(field[11]) + int(field[12]) for field in fields) / _TICK


class World:
    """What a test puts together, and what is ended with it."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.folder = folder
        self.registry = Registry()
        self.arguments: list[str] = []
        self._stack = stack
        self._started = 0

    def engine(self, mode: str = "serve", *, http10: bool = False) -> EngineProcess:
        """Start an engine."""
        return self._stack.enter_context(engine(mode, http10=http10))

    def proxy(self, *rows: dict[str, object], ollama_url: str = "", **variables: str) -> Proxy:
        """Start a proxy over a registry with these rows; the default Ollama is refused unless given."""
        self.registry.put(*rows)
        if not self._started:
            self._stack.enter_context(self.registry)
        return self.proxy_without_registry(ollama_url=ollama_url, **variables).wait_for_configuration()

    def proxy_without_registry(self, *, ollama_url: str = "", **variables: str) -> Proxy:
        """Start a proxy without waiting for it to know anything."""
        self._started += 1
        settings = {
            "ADMIN_API_URL": self.registry.url,
            "ADMIN_API_TOKEN": TOKEN,
            "OLLAMA_URL": ollama_url or f"http://127.0.0.1:{quiet_port()}",
            **variables,
        }
        log = self.folder / f"proxy-{self._started}.log"
        return Proxy(self._stack.enter_context(serving("proxy", log, *self.arguments, **settings)))


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """An empty world."""
    with ExitStack() as stack:
        yield World(stack, folder)


def within(seconds: float, condition: Callable[[], object]) -> float:
    """Wait for a condition; returns after how many seconds it came, or fails."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"what the test waits for did not come within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began


async def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait for a condition and let the event loop go on meanwhile; fails where it does not come."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"what the test waits for did not come within {seconds} s"
        await asyncio.sleep(0.01)
