"""What is sent to every gateway, and which figures come of it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.machine import cpu_seconds, memory
from bench.traffic import Engine, Outcome, Prompts, Times, send

Figures = dict[str, float]
SOUND_SECONDS = 2.0  # for which all engines answer, before the one hangs that is preferred


@dataclass(frozen=True)
class Target:
    """What a load is sent to. `pid` None: straight to the engine."""

    name: str
    url: str
    headers: Sequence[str]
    pid: int | None
    engines: Sequence[Engine]


@dataclass(frozen=True)
class Column:
    """A figure of the table. `above` is the figure of the way straight to the engine, to be taken off."""

    figure: str
    title: str
    digits: int = 0


@dataclass(frozen=True)
class Load:
    """One load: how the engine behaves, what is sent, what is made of it.

    `ratio` names the figure that is also shown as a share of nginx's. `only_once`: passes would not tell more.
    """

    name: str
    title: str
    prompts: Prompts
    figures: Callable[[Outcome, float], Figures]
    columns: Sequence[Column]
    dialect: str = "openai"
    pace_us: int = 0
    engines: int = 1
    ratio: str | None = None
    only_once: bool = False
    may_fail: bool = False
    short: Prompts = field(default_factory=lambda: Prompts(seconds=1))

    def quick(self) -> "Load":
        """Return the same load, shorter."""
        return replace(self, prompts=self.short)

    def lasting(self, seconds: float) -> "Load":
        """Return the same load for so long, where its length is not given by the number of its prompts."""
        return self if self.prompts.requests else replace(self, prompts=replace(self.prompts, seconds=seconds))


class WrongAnswersError(Exception):
    """Prompts of a load were not answered as they should have been; the text says how many, and what was wrong."""


def measure(program: Path, load: Load, target: Target, folder: Path) -> Figures:
    """Send a load to a target once. Raises WrongAnswersError if prompts were lost and that is not the question."""
    for engine in target.engines:
        engine.set(tokens=load.prompts.tokens or 100, pace_us=load.pace_us)
    hung = hang_preferred(program, load, target, folder) if load.engines > 1 else None
    cpu = cpu_seconds(target.pid) if target.pid else 0.0
    with _memory_watched(target.pid) as watched:
        outcome = send(program, target.url, load.prompts, target.headers, folder)
    cpu = (cpu_seconds(target.pid) if target.pid else 0.0) - cpu
    if outcome.faults:
        faults = ", ".join(f"{count} of {outcome.sent} {what}" for what, count in outcome.faults.items())
        if not load.may_fail:
            raise WrongAnswersError(faults)
        print(f"{target.name}, {load.name}: {faults}")
    figures = load.figures(outcome, cpu) | {"sent": outcome.sent, "lost": outcome.sent - outcome.answered}
    if target.pid is None:
        del figures["cpu"]
    if hung is not None:
        figures["met"], figures["late"], figures["most"] = hung.met()
    if watched:
        figures |= {"memory": watched[-1], "growth": max(watched) - watched[len(watched) // 2]}
    return figures


def hang_preferred(program: Path, load: Load, target: Target, folder: Path) -> Engine:
    """Have the engine hang that a gateway prefers, and return it: it got most of the prompts of a few seconds before.

    Another one would favour a gateway that sends little there anyway.
    """
    before = replace(load.prompts, requests=round(load.prompts.rate * SOUND_SECONDS))
    send(program, target.url, before, target.headers, folder)
    preferred = max(target.engines, key=lambda engine: engine.met().prompts)
    preferred.set(hang=True)
    return preferred


@contextmanager
def _memory_watched(pid: int | None) -> Iterator[list[float]]:
    """Take the memory of a process tree every half second, and once more at the end."""
    taken: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            taken.append(memory(pid or 0))

    watcher = threading.Thread(target=watch)
    if pid:
        watcher.start()
    try:
        yield taken
    finally:
        ended.set()
        if pid:
            watcher.join()
            taken.append(memory(pid))


def _whole(outcome: Outcome, cpu: float) -> Figures:
    return {
        "rate": outcome.answered / outcome.seconds,
        "cpu": cpu / max(1, outcome.answered) * 1e6,
        **_times("", outcome.latency),
    }


def _stream(outcome: Outcome, cpu: float) -> Figures:
    return {"rate": outcome.tokens / outcome.seconds, "cpu": cpu / max(1, outcome.tokens) * 1e6}


def _delay(outcome: Outcome, cpu: float) -> Figures:
    return {"cpu": cpu / max(1, outcome.tokens) * 1e6, **_times("", outcome.delay)}


def _first(outcome: Outcome, cpu: float) -> Figures:
    return {"cpu": cpu / max(1, outcome.answered) * 1e6, **_times("", outcome.first)}


def _times(prefix: str, times: Times) -> Figures:
    return {f"{prefix}{name}": value for name, value in vars(times).items()}


_CPU = Column("cpu", "CPU µs")
_MEMORY, _GROWTH = Column("memory", "MB"), Column("growth", "growth MB", 1)
_ADDED = (Column("added_p50", "added p50 ms", 3), Column("added_p99", "added p99 ms", 3))
_TIMES = (Column("p50", "p50 ms", 3), Column("p99", "p99 ms", 3))
_CHUNKS = (Column("rate", "chunks/s"), Column("ratio", "of nginx", 3), Column("cpu", "CPU µs/chunk", 1), _MEMORY)
_FAST, _BRIEF = Prompts(tokens=100), Prompts(tokens=100, seconds=1)

ALL = (
    Load(
        "whole", "1 KB prompt, whole JSON reply, 64 connections", Prompts(), _whole,
        (Column("rate", "requests/s"), Column("ratio", "of nginx", 3), _CPU, *_TIMES, _MEMORY, _GROWTH), ratio="rate",
    ),
    Load(
        "single", "the same on one connection", Prompts(connections=1), _whole, (*_TIMES, *_ADDED, _CPU),
        short=Prompts(connections=1, seconds=1),
    ),
    Load(
        "stream", "streams of 100 chunks as fast as possible, 64 at once", _FAST, _stream, _CHUNKS, ratio="rate",
        short=_BRIEF,
    ),
    Load(
        "first", "first chunk of a stream, one at a time", Prompts(tokens=3, connections=1), _first,
        (*_TIMES, *_ADDED), pace_us=1000, short=Prompts(tokens=3, connections=1, seconds=1),
    ),
    Load(
        "paced", "500 open streams of 20 chunks a second: delay of a chunk",
        Prompts(tokens=200, connections=500, requests=500, ramp=1.0, seconds=60), _delay,
        (*_TIMES, *_ADDED, Column("cpu", "CPU µs/chunk", 1), _MEMORY, _GROWTH), pace_us=50000,
        only_once=True, short=Prompts(tokens=40, connections=500, requests=500, ramp=1.0, seconds=60),
    ),
    Load("ollama", "Ollama's stream for an OpenAI caller", _FAST, _stream, _CHUNKS, dialect="ollama", short=_BRIEF),
    Load("mlx", "MLX's stream for an OpenAI caller", _FAST, _stream, _CHUNKS, dialect="mlx", short=_BRIEF),
    Load(
        "hang", "one of two engines accepts and never answers: 2,000 prompts, 200 a second",
        Prompts(rate=200, requests=2000, seconds=60), _whole,
        (
            Column("sent", "prompts"), Column("lost", "lost"), Column("max", "longest ms"),
            Column("met", "met the hung"), Column("late", "of these after 3 s"),
            Column("most", "most in a second"),
        ),
        engines=2, only_once=True, may_fail=True, short=Prompts(rate=200, requests=400, seconds=60),
    ),
)  # fmt: skip
