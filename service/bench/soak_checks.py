"""What the soak asks for, and what it holds against each answer and against the proxy's books. No I/O."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus

import msgspec

from tests.support.caller import OPENAI_CHAT, PATHS, Answer
from tests.support.faults.wire import reply_to

SHAKY, STEADY = 0, 1  # priorities: the engine that is killed again and again is the first choice
MODELS = {
    "openai": ("openai", "openai"),
    "mlx": ("mlx", "mlx"),
    "ollama": ("ollama", "ollama"),
    "openai-then-ollama": ("openai", "ollama"),
    "ollama-then-mlx": ("ollama", "mlx"),
}
"""The engine types of each model's route: that of the shaky backend, and that of the steady one behind it."""

LEAVERS, SLOW, STREAMS = 0.01, 0.1, 0.5  # shares of all requests
EXAMPLES = 5  # wrong answers that are shown


class Ask(msgspec.Struct, frozen=True):
    """One request. `leaves` says that its caller goes away after the first bytes of the answer."""

    path: str
    model: str
    prompt: str
    stream: bool
    leaves: bool


class Verdict(StrEnum):
    """What became of a request."""

    RIGHT = "right"  # the whole of the right reply
    BROKEN = "broken"  # a stream that broke after its first token, and said so
    LEFT = "left"  # its caller went away
    REFUSED = "refused"  # 429 or 503: never right here, there is always a backend that serves
    WRONG = "wrong"  # anything else
    HUNG = "hung"  # no end in time


GOOD = (Verdict.RIGHT, Verdict.BROKEN, Verdict.LEFT)


def plan(number: int, seed: int) -> Ask:
    """Return the request of a number: half of all are streams, every path and every model as often."""
    draw = random.Random(f"{seed}-{number}")  # noqa: S311 - nothing secret
    if draw.random() < LEAVERS:
        return Ask(OPENAI_CHAT, draw.choice(list(MODELS)), f"leaver {number} [tokens=8 pause=0.25]", True, True)
    pause = draw.choice((0.005, 0.02, 0.05)) if draw.random() < SLOW else 0
    words = " ".join(["über", "the", "hills", "and", "far", "away"][: draw.randint(0, 6)])
    directions = f"[tokens={draw.randint(1, 12)} pause={pause}]"
    return Ask(
        path=draw.choice(PATHS),
        model=draw.choice(list(MODELS)),
        prompt=f"request {number} {words} {directions}",
        stream=draw.random() < STREAMS,
        leaves=False,
    )


def judge(ask: Ask, answer: Answer) -> Verdict:
    """Return what an answer is worth, to the last character."""
    if answer.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        return Verdict.REFUSED
    right = "".join(reply_to(ask.prompt))
    try:
        if answer.complete:
            return Verdict.RIGHT if answer.text == right else Verdict.WRONG
        told = ask.stream and answer.status == HTTPStatus.OK and not answer.ended and bool(answer.error)
        return Verdict.BROKEN if told and answer.text and right.startswith(answer.text) else Verdict.WRONG
    except (ValueError, KeyError, IndexError, TypeError):  # not even JSON of the dialect
        return Verdict.WRONG


class Tally(msgspec.Struct):
    """All that the callers saw. `right` and `seconds` are of right answers: by backend id, and how long each took."""

    verdicts: Counter[str] = msgspec.field(default_factory=Counter)
    right: Counter[str] = msgspec.field(default_factory=Counter)
    seconds: list[float] = msgspec.field(default_factory=list)
    examples: list[str] = msgspec.field(default_factory=list)

    def add(self, ask: Ask, verdict: Verdict, answer: Answer | None, seconds: float, error: str = "") -> None:
        """Count one request; `error` is why there is no answer."""
        self.verdicts[verdict] += 1
        if verdict is Verdict.RIGHT and answer is not None:
            self.right[answer.backend] += 1
            self.seconds.append(seconds)
        elif verdict not in GOOD and len(self.examples) < EXAMPLES:
            self.examples.append(f"{verdict} after {seconds:.2f} s: {ask} got {answer or error}")

    @property
    def sent(self) -> int:
        """All requests."""
        return self.verdicts.total()


class Books(msgspec.Struct):
    """What the proxy says of the same time.

    `requests` is its count of requests by error type, `figures` what it reported to the registry by backend id,
    `attempts` and `completed` the lines in its log.
    """

    requests: Mapping[str, float]
    figures: Mapping[int, Mapping[str, float]]
    attempts: int
    completed: int


class State(msgspec.Struct):
    """What a proxy holds on to: files and connections, tasks (none where it does not tell), bytes, requests."""

    descriptors: int
    tasks: float | None
    resident: int
    active: float


def disagreements(tally: Tally, books: Books) -> list[str]:
    """Return where the callers' count and the proxy's differ; empty if every request is accounted for."""
    requests, figures = books.requests, books.figures
    counted = {str(number): sums["requests"] - sums["errors"] for number, sums in figures.items()}
    tried = sum(sums["requests"] for sums in figures.values())
    ended_early = tally.verdicts[Verdict.BROKEN] + tally.verdicts[Verdict.LEFT]
    pairs: Sequence[tuple[str, float, float]] = (
        ("requests", tally.sent, sum(requests.values())),
        ("right answers", tally.verdicts[Verdict.RIGHT], requests.get("", 0)),
        # A caller that leaves just when the engine is killed may be counted as either.
        ("broken and left", ended_early, requests.get("stream_broken", 0) + requests.get("cancelled", 0)),
        ("successes in the registry", tally.verdicts[Verdict.RIGHT], sum(counted.values())),
        ("completed in the log", tally.verdicts[Verdict.RIGHT], books.completed),
        ("attempts in the log and the registry", books.attempts, tried + requests.get("cancelled", 0)),
    )
    found = [f"{what}: {seen:g} against the proxy's {told:g}" for what, seen, told in pairs if seen != told]
    for number in sorted(tally.right.keys() | counted.keys()):
        seen, told = tally.right[number], counted.get(number, 0)
        if seen != told:
            found.append(f"successes of backend {number}: {seen} against the registry's {told:g}")
    return found


def leaks(before: State, after: State) -> list[str]:
    """Return what a proxy has not given back."""
    found = []
    if after.active:
        found.append(f"{after.active:g} requests are still active")
    if after.descriptors > before.descriptors:
        found.append(f"{after.descriptors} open files and connections, {before.descriptors} at the start")
    if before.tasks is not None and after.tasks is not None and after.tasks > before.tasks:
        found.append(f"{after.tasks:g} tasks, {before.tasks:g} at the start")
    return found
