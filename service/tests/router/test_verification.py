import asyncio
from typing import Any

import pytest

from athena.router.types import BackendType
from athena.router.verification import Question, Verdict, candidates, verify
from athena.settings import RouterSettings
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import Asked, StandIn, close_before_first_token, fail, hang, refused_url, serve

OLLAMA = "http://localhost:11434"
QUESTION = Question(text="What is 2+2?", max_tokens=7)


def places(*rows: Any, ollama_url: str = OLLAMA) -> list[tuple[str, str, str]]:
    return [
        (one.place, one.target.engine.value, one.target.endpoint_url)
        for one in candidates("m", rows, ollama_url=ollama_url)
    ]


async def ask(bench: Bench, *rows: Any, ollama_url: str | None = None, question: Question = QUESTION) -> list[Verdict]:
    settings = await bench.settings(ollama_url)
    return await verify(settings, candidates("m", rows, ollama_url=settings.ollama_url), question)


def test_auto_is_two_engines_of_which_the_default_ollama_is_the_fallback() -> None:
    assert places(row(1, "http://mac:1", engine="auto")) == [
        ("first", "mlx", "http://mac:1"),
        ("fallback", "ollama", OLLAMA),
    ]


def test_priorities_are_places_and_equals_share_one() -> None:
    rows = [
        row(1, "http://a", priority=5),
        row(2, "http://b", priority=5, weight=9),
        row(3, "http://c", priority=7),
        row(4, "http://d", priority=0, enabled=False),
    ]
    assert [(place, url) for place, _, url in places(*rows)] == [
        ("first", "http://a"),
        ("first", "http://b"),
        ("second", "http://c"),
    ]
    assert places(*(row(number, f"http://{number}", priority=number) for number in range(1, 8)))[6][0] == "number 7"


def test_no_engine_is_asked_twice_and_none_without_an_enabled_backend() -> None:
    rows = [row(1, "http://mac:1", engine="auto"), row(2, OLLAMA, priority=1)]
    assert [place for place, _, _ in places(*rows)] == ["first", "fallback"]
    assert places(row(1, "http://mac:1", enabled=False)) == []


async def test_every_engine_is_asked_and_says_what_it_generated(bench: Bench) -> None:
    mlx, ollama, third = await bench.engine(), await bench.engine(), await bench.engine()
    rows = [row(1, mlx.url, engine="auto", max_tokens=99), row(2, third.url, engine="openai", priority=1)]
    verdicts = await ask(bench, *rows, ollama_url=ollama.url)
    assert [(one.place, one.engine, one.endpoint_url) for one in verdicts] == [
        ("first", BackendType.MLX, mlx.url),
        ("fallback", BackendType.OLLAMA, ollama.url),
        ("second", BackendType.OPENAI, third.url),
    ]
    for verdict in verdicts:
        assert verdict.passed
        assert verdict.answer == "You said: What is 2+2?."
        assert (verdict.finish_reason, verdict.completion_tokens, verdict.error) == ("stop", 3, None)
        assert verdict.tokens_per_second is not None
    assert [len(engine.asked) for engine in (mlx, ollama, third)] == [1, 1, 1]
    assert mlx.asked[0].json["model"] == "default_model", "it is asked as prompts are"
    assert ollama.asked[0].json["options"]["num_predict"] == 7


async def test_a_broken_fallback_is_found_while_the_first_answers(bench: Bench) -> None:
    mlx, nowhere = await bench.engine(), refused_url()
    first, fallback = await ask(bench, row(1, mlx.url, engine="auto"), ollama_url=nowhere)
    assert first.passed
    assert not fallback.passed
    assert fallback.error is not None
    assert fallback.error.startswith("refused: ")


async def test_a_broken_first_is_not_hidden_by_the_fallback(bench: Bench) -> None:
    ollama = await bench.engine()
    first, fallback = await ask(bench, row(1, refused_url(), engine="auto"), ollama_url=ollama.url)
    assert (first.passed, fallback.passed) == (False, True)


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [(fail, "status: status 500: out of memory"), (close_before_first_token, "empty: ")],
)
async def test_an_engine_that_does_not_generate_fails(bench: Bench, behaviour: Any, complaint: str) -> None:
    (verdict,) = await ask(bench, row(1, (await bench.engine(behaviour)).url))
    assert not verdict.passed
    assert (verdict.error or "").startswith(complaint)


async def says_nothing(asked: Asked) -> None:
    await asked.start()
    await asked.chunk(asked.piece("", done=True, done_reason="stop", eval_count=0))
    await asked.send(b"0\r\n\r\n")


async def does_not_count(asked: Asked) -> None:
    await asked.start()
    await asked.chunk(asked.piece("Four.") + asked.piece("", finish_reason="stop") + b"data: [DONE]\n\n")
    await asked.send(b"0\r\n\r\n")


async def test_an_answer_without_a_token_is_none(bench: Bench) -> None:
    (verdict,) = await ask(bench, row(1, (await bench.engine(says_nothing)).url))
    assert not verdict.passed
    assert verdict.completion_tokens == 0
    assert "without a single token" in (verdict.error or "")


class OnlyEmbeds:
    """An engine whose model makes vectors, and refuses a conversation in an engine's own words."""

    def __init__(self, refusal: str, answer: str) -> None:
        self.refusal, self.answer = refusal, answer

    async def __call__(self, asked: Asked) -> None:
        """Answer one request."""
        if asked.path in {"/api/embed", "/v1/embeddings"}:
            await asked.answer(200, self.answer.encode())
        else:
            await asked.answer(400, self.refusal.encode())


OLLAMA_REFUSAL = '{"error": "\\"m\\" does not support chat"}'


@pytest.mark.parametrize(
    ("engine", "refusal", "answer"),
    [
        ("ollama", OLLAMA_REFUSAL, '{"model": "m", "embeddings": [[0.1, 0.2, 0.3]], "prompt_eval_count": 5}'),
        (
            "openai",
            '{"error": {"message": "The model does not support Chat Completions API"}}',
            '{"data": [{"index": 0, "embedding": [0.1, 0.2, 0.3]}], "usage": {"prompt_tokens": 5}}',
        ),
    ],
)
async def test_a_model_that_only_embeds_is_asked_for_a_vector(
    bench: Bench, engine: str, refusal: str, answer: str
) -> None:
    standin = await bench.engine(OnlyEmbeds(refusal, answer))
    (verdict,) = await ask(bench, row(1, standin.url, engine=engine))
    assert (verdict.passed, verdict.error) == (True, None)
    assert (verdict.answer, verdict.completion_tokens) == ("a vector of 3 numbers", None)
    assert standin.asked[-1].json["input"] in (["What is 2+2?"], "What is 2+2?")


async def test_one_that_gives_no_vector_either_fails(bench: Bench) -> None:
    standin = await bench.engine(OnlyEmbeds(OLLAMA_REFUSAL, '{"model": "m", "embeddings": []}'))
    (verdict,) = await ask(bench, row(1, standin.url))
    assert (verdict.passed, verdict.error) == (False, "empty: a reply without a vector")


async def test_what_an_engine_refuses_for_another_cause_is_no_reason_to_ask_for_a_vector(bench: Bench) -> None:
    standin = await bench.engine(OnlyEmbeds('{"error": "\\"m\\" does not support thinking"}', "{}"))
    (verdict,) = await ask(bench, row(1, standin.url))
    assert not verdict.passed
    assert "does not support thinking" in (verdict.error or "")
    assert all("embed" not in asked.path for asked in standin.asked)


async def test_an_engine_that_writes_but_does_not_count_passes(bench: Bench) -> None:
    (verdict,) = await ask(bench, row(1, (await bench.engine(does_not_count)).url, engine="openai"))
    assert verdict.passed
    assert (verdict.answer, verdict.completion_tokens, verdict.tokens_per_second) == ("Four.", None, None)


async def test_an_answer_is_waited_for_as_long_as_is_said(bench: Bench) -> None:
    one = row(1, (await bench.engine(hang)).url, timeout_seconds=600, first_token_seconds=600)
    (verdict,) = await ask(bench, one, question=Question(text="?", max_tokens=1, timeout_seconds=1))
    assert (verdict.error or "").startswith("timeout: ")
    assert 0.9 < verdict.seconds < 3


async def test_one_engine_is_asked_one_question_after_the_other(bench: Bench) -> None:
    at_once = most = 0

    async def serve_and_count(asked: Asked) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.05)
        await serve(asked)
        at_once -= 1

    engine = await bench.engine(serve_and_count)
    settings = await bench.settings()
    engines = [
        one
        for model in ("a", "b", "c")
        for one in candidates(model, [row(1, engine.url, model=model)], ollama_url=OLLAMA)
    ]
    verdicts = await verify(settings, engines, QUESTION)
    assert [(one.model, one.passed) for one in verdicts] == [("a", True), ("b", True), ("c", True)]
    assert most == 1


async def test_a_verification_leaves_figures_and_the_state_file_alone(bench: Bench, tmp_path: Any) -> None:
    engine: StandIn = await bench.engine()
    settings: RouterSettings = (await bench.settings()).model_copy(update={"router_state_file": tmp_path / "state"})
    await verify(settings, candidates("m", [row(1, engine.url)], ollama_url=OLLAMA), QUESTION)
    assert bench.api.batches == []
    assert list(tmp_path.iterdir()) == []
