"""The first-byte rule: before it another backend answers and the caller never knows, after it the caller is told."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest

from tests.steadiness.world import World, world
from tests.support.caller import PATHS, Answer, ask
from tests.support.faults.behaviours import (
    AFTER_FIRST_TOKEN,
    BEFORE_FIRST_TOKEN,
    BLACK_HOLE,
    HANGS_BEFORE_FIRST_TOKEN,
    REFUSE,
    UNREACHABLE,
)
from tests.support.faults.wire import reply_to
from tests.support.registry import backend

ENGINES = ("openai", "mlx", "ollama")
QUICK = (REFUSE, *BEFORE_FIRST_TOKEN, *AFTER_FIRST_TOKEN)
SLOW = (BLACK_HOLE, *HANGS_BEFORE_FIRST_TOKEN, "hang_after_first_token")


@dataclass(frozen=True)
class Case:
    """A request, and how the first engine of its route fails."""

    mode: str
    engine: str
    path: str
    stream: bool

    @property
    def model(self) -> str:
        """A model of the case's own, so that no other case's failures are known of its backends."""
        return f"{self.mode}-{self.engine}-{self.path.replace('/', '.')}-{self.stream}"


class Stage:
    """A proxy that knows a route for every case: first the engine that fails, then the one that serves."""

    def __init__(self, own: World) -> None:
        good = own.engine()
        good_url = {"mlx": good.another_url(http10=True)}
        rows: list[dict[str, object]] = []
        self.numbers: dict[Case, int] = {}
        # No probe may find out what is wrong with an engine before a case does.
        self.engine, self.gone = own.engine(), {mode: own.engine() for mode in UNREACHABLE}
        for mode in (*QUICK, *SLOW):
            bad = self.gone.get(mode, self.engine)
            for engine, path, stream in product(ENGINES, PATHS, (False, True)):
                case = Case(mode, engine, path, stream)
                number = self.numbers[case] = len(rows) + 1
                limits = {"timeout_seconds": 1 if mode in SLOW else 10}
                rows.append(
                    backend(number, case.model, engine, bad.another_url(http10=engine == "mlx"), priority=0, **limits)
                )
                rows.append(backend(number + 1, case.model, engine, good_url.get(engine, good.url), priority=1))
        for mode, unreachable in self.gone.items():
            unreachable.become(mode)
        self.proxy = own.proxy(*rows)

    async def play(self, mode: str, *, streams: tuple[bool, ...] = (False, True)) -> dict[Case, Answer]:
        """Ask once for each case of a mode, all at the same time."""
        cases = [case for case in self.numbers if case.mode == mode and case.stream in streams]
        if mode not in UNREACHABLE:
            self.engine.become(mode, only="say ")
        self.engine.forget()
        answers = await asyncio.gather(
            *(ask(self.proxy.url, case.path, case.model, prompt(case), stream=case.stream) for case in cases)
        )
        return dict(zip(cases, answers, strict=True))

    def id_of_good(self, case: Case) -> str:
        """Return the id of the backend that serves."""
        return str(self.numbers[case] + 1)


def prompt(case: Case) -> str:
    """Return a prompt that no other case has."""
    return f"say {case.model}"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with world(tmp_path_factory.mktemp("first-byte")) as own:
        yield Stage(own)


def _served_by_the_next(stage: Stage, answers: dict[Case, Answer]) -> None:
    wrong = [
        (case, answer)
        for case, answer in answers.items()
        if not answer.complete
        or answer.text != "".join(reply_to(prompt(case)))
        or answer.backend != stage.id_of_good(case)
    ]
    assert not wrong, wrong[0]


@pytest.mark.parametrize("mode", [REFUSE, *BEFORE_FIRST_TOKEN])
async def test_what_fails_before_its_first_token_is_answered_by_the_next_backend(stage: Stage, mode: str) -> None:
    answers = await stage.play(mode)
    _served_by_the_next(stage, answers)
    assert len(answers) == len(ENGINES) * len(PATHS) * 2
    if mode != REFUSE:
        assert set(stage.engine.report().prompts) >= {prompt(case) for case in answers}  # each was tried


@pytest.mark.parametrize("mode", AFTER_FIRST_TOKEN)
async def test_a_whole_reply_that_breaks_off_is_answered_by_the_next_backend(stage: Stage, mode: str) -> None:
    _served_by_the_next(stage, await stage.play(mode, streams=(False,)))


@pytest.mark.parametrize("mode", [BLACK_HOLE, *HANGS_BEFORE_FIRST_TOKEN])
async def test_what_hangs_before_its_first_token_is_answered_by_the_next_backend(stage: Stage, mode: str) -> None:
    _served_by_the_next(stage, await stage.play(mode))


@pytest.mark.parametrize("mode", [*AFTER_FIRST_TOKEN, "hang_after_first_token"])
async def test_a_stream_that_breaks_after_its_first_token_ends_in_an_error_of_the_callers_dialect(
    stage: Stage, mode: str
) -> None:
    broken = stage.proxy.metric("gen_ai_server_request_duration_seconds_count", error_type="stream_broken")
    answers = await stage.play(mode, streams=(True,))
    for case, answer in answers.items():
        right = "".join(reply_to(prompt(case)))
        assert answer.status == 200, case
        assert answer.text, case
        assert right.startswith(answer.text), case
        assert answer.error, case
        assert not answer.ended, case
        assert not answer.complete, case
    told = stage.proxy.metric("gen_ai_server_request_duration_seconds_count", error_type="stream_broken") - broken
    assert told == len(answers)
