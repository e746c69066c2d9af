"""Each backend has its own limits for the first token and between two tokens; `timeout_seconds` is far beyond them."""

import asyncio
import time
from collections.abc import Iterator
from itertools import product

import pytest

from tests.steadiness.world import World, until, world
from tests.support.caller import OLLAMA_CHAT, OPENAI_CHAT, ask
from tests.support.faults.wire import reply_to
from tests.support.registry import backend

ENGINES = ("openai", "mlx", "ollama")
WAYS = tuple(product(ENGINES, (OPENAI_CHAT, OLLAMA_CHAT)))
LIMITS = {"timeout_seconds": 100, "first_token_seconds": 1, "stall_seconds": 1, "max_concurrency": 100}
SOON = 2.5  # seconds: the limit, and a machine that is busy


class Stage:
    """A proxy with routes whose first engine can be told to stall."""

    def __init__(self, own: World) -> None:
        self.engine, self.next = own.engine(), own.engine()
        rows: list[dict[str, object]] = []
        for kind in ENGINES:
            mlx = kind == "mlx"
            for model in ("cut", "moved", "steady"):
                number = len(rows) + 1
                rows.append(backend(number, f"{model}-{kind}", kind, self.engine.another_url(http10=mlx), **LIMITS))
            url = self.next.another_url(http10=mlx)
            rows.append(backend(len(rows) + 1, f"moved-{kind}", kind, url, priority=1, **LIMITS))
        self.proxy = own.proxy(*rows)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with world(tmp_path_factory.mktemp("stall")) as own:
        yield Stage(own)


@pytest.mark.parametrize("mode", ["hang", "hang_after_head", "keep_alive_only"])
async def test_an_engine_without_a_first_token_in_time_is_left_for_the_next(stage: Stage, mode: str) -> None:
    stage.engine.become(mode)
    began = time.monotonic()
    answers = await asyncio.gather(
        *(ask(stage.proxy.url, path, f"moved-{kind}", f"{mode} {kind}", stream=True) for kind, path in WAYS)
    )
    assert time.monotonic() - began < SOON
    for (kind, _), answer in zip(WAYS, answers, strict=True):
        assert answer.complete, (kind, answer)
        assert answer.text == "".join(reply_to(f"{mode} {kind}"))
    await until(lambda: stage.engine.report().running == 0, 1.0)


async def test_a_stream_that_stalls_is_cut_told_and_counted(stage: Stage) -> None:
    stage.engine.become("hang_after_first_token")
    stalled = stage.proxy.metric("athena_stalled_streams_total")
    broken = stage.proxy.metric("gen_ai_server_request_duration_seconds_count", error_type="stream_broken")
    began = time.monotonic()
    answers = await asyncio.gather(
        *(ask(stage.proxy.url, path, f"cut-{kind}", f"stall {kind}", stream=True) for kind, path in WAYS)
    )
    assert time.monotonic() - began < SOON
    for (kind, _), answer in zip(WAYS, answers, strict=True):
        assert answer.text == reply_to(f"stall {kind}")[0]
        assert answer.error
        assert not answer.ended
    await until(lambda: stage.engine.report().running == 0, 1.0)  # the engine felt it
    told = stage.proxy.metric("gen_ai_server_request_duration_seconds_count", error_type="stream_broken")
    assert told - broken == len(WAYS)
    assert stage.proxy.metric("athena_stalled_streams_total") - stalled == len(WAYS)
    await until(lambda: len(stage.proxy.server.events("llm_stream_broken")) >= len(WAYS))


async def test_a_slow_stream_that_goes_on_is_left_alone(stage: Stage) -> None:
    stage.engine.become("serve")
    prompt = "slowly [tokens=4 pause=0.6]"
    answers = await asyncio.gather(
        *(ask(stage.proxy.url, path, f"steady-{kind}", prompt, stream=True) for kind, path in WAYS)
    )
    assert all(answer.complete for answer in answers)
    assert {answer.text for answer in answers} == {"".join(reply_to(prompt))}
