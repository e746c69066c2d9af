"""Engines that hang, die, recover or are only busy, as a router sees that watches and probes them."""

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from athena.router.periods import Periods
from athena.router.types import Dialect
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import Asked, refused_url, serve, until
from tests.router.test_dispatch import SAID, answer, call
from tests.router.watching import Engine, Watched, gate_of, state_of


@pytest.mark.parametrize("kind", ["ollama", "openai", "mlx"])
async def test_a_request_at_an_engine_that_answers_nothing_is_moved_at_once(
    bench: Bench, watched: Watched, kind: str
) -> None:
    dead, sound = await bench.engine(hung := Engine()), await bench.engine(Engine())
    hung.answers = False
    services = await watched(row(1, dead.url, engine=kind), row(2, sound.url, engine="openai", priority=1))
    started = time.monotonic()
    assert await asyncio.gather(*(answer(services, call()) for _ in range(5))) == [SAID] * 5
    assert time.monotonic() - started < 1.0
    assert state_of(services, dead) == "open"
    met = len([asked for asked in dead.asked if asked.method == "POST"])
    assert await answer(services, call()) == SAID
    assert len([asked for asked in dead.asked if asked.method == "POST"]) == met, "no request meets it any more"


@pytest.mark.parametrize("kind", ["openai", "mlx"])
async def test_an_engine_that_answers_but_does_not_generate_leaves_the_route_and_comes_back(
    bench: Bench, watched: Watched, kind: str
) -> None:
    engine = await bench.engine(behaviour := Engine())
    services = await watched(row(1, engine.url, engine=kind))
    with capture_logs() as logs:
        behaviour.generates = False
        await until(lambda: state_of(services, engine) == "open")
        behaviour.generates = True
        await until(lambda: state_of(services, engine) == "closed")
    changes = [(line["event"], line["reason"]) for line in logs if line["event"].startswith("backend_breaker")]
    assert changes == [("backend_breaker_opened", "hung"), ("backend_breaker_closed", "hung")]
    assert await answer(services, call()) == SAID
    assert not services.figures.pending() or services.figures.pending()[1].requests == 1, "probes do not count"


async def test_an_engine_that_is_out_is_asked_for_one_token_at_a_time(bench: Bench, watched: Watched) -> None:
    now, most, asked_again = 0, 0, 0

    async def hangs(asked: Asked) -> None:
        nonlocal now, most, asked_again
        if asked.method == "GET":
            await asked.answer(200, b"{}")
            return
        now += 1
        if state_of(services, engine) == "open":
            most, asked_again = max(most, now), asked_again + 1
        try:
            await asked.until_left()
        finally:
            now -= 1

    engine = await bench.engine(hangs)
    services = await watched(row(1, engine.url, engine="openai"))
    await until(lambda: asked_again >= 5)
    assert most == 1


async def test_a_request_whose_stream_never_has_a_token_is_moved_once_the_engine_is_known_to_hang(
    bench: Bench, watched: Watched
) -> None:
    async def opens_and_hangs(asked: Asked) -> None:
        if asked.method == "GET":
            await asked.answer(200, b"{}")
            return
        await asked.start()
        await asked.until_left()

    dead, sound = await bench.engine(opens_and_hangs), await bench.engine(Engine())
    services = await watched(row(1, dead.url, engine="openai"), row(2, sound.url, engine="openai", priority=1))
    assert await asyncio.wait_for(answer(services, call()), 2) == SAID


COMMENT = b": keepalive 1/2\n\n"


async def test_an_engine_that_greets_each_new_request_and_generates_nothing_leaves_the_route(
    bench: Bench, watched: Watched
) -> None:
    async def greets(asked: Asked) -> None:
        if asked.method == "GET":
            await asked.answer(200, b"{}")
            return
        await asked.start()
        await asked.chunk(COMMENT)
        await asked.until_left()

    dead, sound = await bench.engine(greets), await bench.engine(Engine())
    first = row(1, dead.url, engine="mlx", max_concurrency=1000)
    services = await watched(first, row(2, sound.url, engine="openai", priority=1))
    asked: list[asyncio.Task[str]] = []
    async with asyncio.timeout(3):
        while state_of(services, dead) != "open":
            asked.append(asyncio.create_task(answer(services, call())))
            await asyncio.sleep(0.02)
        assert await asyncio.gather(*asked) == [SAID] * len(asked)
    assert services.gates.states()[0].reason == "hung"


async def test_an_engine_that_goes_on_reading_a_long_prompt_is_not_taken_for_dead(
    bench: Bench, watched: Watched
) -> None:
    free = asyncio.Lock()

    async def reads(asked: Asked) -> None:
        if asked.method == "GET":
            await asked.answer(200, b"{}")
            return
        async with free:  # whoever comes meanwhile, probes as well, sees nothing
            await asked.start()
            for _ in range(40 if asked.prompt == "hello" else 0):
                await asked.chunk(COMMENT)
                await asyncio.sleep(0.03)
            await asked.chunk(asked.piece("a"))
            await asked.chunk(asked.end())
            await asked.send(b"0\r\n\r\n")

    engine = await bench.engine(reads)
    services = await watched(row(1, engine.url, engine="mlx"))
    assert await asyncio.gather(*(answer(services, call()) for _ in range(2))) == ["a"] * 2
    assert services.gates.states()[0].trips == 0


async def test_an_engine_that_died_is_out_before_the_next_request_and_back_soon_after_its_return(
    bench: Bench, watched: Watched
) -> None:
    engine = await bench.engine(Engine())
    services = await watched(row(1, engine.url, engine="openai"))
    assert await answer(services, call()) == SAID
    port = int(engine.url.rpartition(":")[2])
    await engine.stop()
    await until(lambda: state_of(services, engine) == "open")
    await engine.start(port)
    await until(lambda: state_of(services, engine) == "closed")
    assert await answer(services, call()) == SAID


async def test_one_refused_connection_is_enough_where_a_probe_confirms_it(bench: Bench, watched: Watched) -> None:
    sound = await bench.engine(Engine())
    slow = Periods(tick=0.01)
    services = await watched(
        row(1, refused_url(), engine="openai"), row(2, sound.url, engine="openai", priority=1), periods=slow
    )
    assert await answer(services, call()) == SAID
    await until(lambda: [one.state for one in services.gates.states()] == ["open", "closed"])


async def test_a_busy_ollama_without_parallelism_is_not_taken_for_dead(bench: Bench, watched: Watched) -> None:
    engine = await bench.engine(behaviour := Engine())
    behaviour.loaded = [{"name": "m:latest", "expires_at": "2999-01-01T00:00:00Z"}]
    services = await watched(row(1, engine.url))
    behaviour.thinks = 1.0  # far longer than any deadline of the probes
    assert await answer(services, call(stream=False)) == SAID
    assert gate_of(services, engine).breaker.level == 0
    assert services.gates.states()[0].trips == 0
    assert not behaviour.probes, "it was evidently at work for us"


@pytest.mark.parametrize("kind", ["ollama", "openai"])
async def test_an_engine_that_is_busy_with_one_long_reply_lets_all_others_wait_and_is_not_taken_for_dead(
    bench: Bench, watched: Watched, kind: str
) -> None:
    """It works on one request at a time; short ones before it have made the long one unusual."""
    engine = await bench.engine(behaviour := Engine())
    behaviour.loaded = [{"name": "m:latest", "expires_at": "2999-01-01T00:00:00Z"}]
    services = await watched(row(1, engine.url, engine=kind))
    asked = Dialect.OLLAMA if kind == "ollama" else Dialect.OPENAI
    for _ in range(4):
        assert await answer(services, call(asked, stream=False)) == SAID
    behaviour.thinks = 2.0  # far longer than all patience
    long = asyncio.create_task(answer(services, call(asked, stream=False)))
    await until(lambda: len(behaviour.prompts) == 5)
    await asyncio.sleep(0.05)
    behaviour.thinks = 0.0
    others = [asyncio.create_task(answer(services, call(asked, stream=stream))) for stream in (False, True)]
    assert await asyncio.gather(long, *others) == [SAID] * 3
    assert services.gates.states()[0].trips == 0


async def test_a_slow_stream_is_proof_of_life(bench: Bench, watched: Watched) -> None:
    async def trickles(asked: Asked) -> None:
        if asked.method == "GET":
            await asked.answer(200, b"{}")
            return
        await asked.start()
        for _ in range(12):
            await asked.chunk(asked.piece("a"))
            await asyncio.sleep(0.05)
        await asked.chunk(asked.end())
        await asked.send(b"0\r\n\r\n")

    engine = await bench.engine(trickles)
    services = await watched(row(1, engine.url, engine="openai", max_concurrency=1))
    assert await answer(services, call()) == "a" * 12
    assert services.gates.states()[0].trips == 0
    assert [asked.prompt for asked in engine.asked if asked.method == "POST"] == ["hello"]


async def test_a_probe_never_loads_a_model_of_ollamas(bench: Bench, watched: Watched) -> None:
    engine = await bench.engine(behaviour := Engine())
    services = await watched(row(1, engine.url))
    await asyncio.sleep(0.6)
    assert not behaviour.probes
    assert state_of(services, engine) == "closed"
    behaviour.loaded = [{"name": "m:latest", "expires_at": "2999-01-01T00:00:00Z", "context_length": 8192}]
    await until(lambda: bool(behaviour.probes))
    assert behaviour.probes[0].json["keep_alive"] == -1
    assert behaviour.probes[0].json["options"] == {"num_predict": 1, "temperature": 0, "num_ctx": 8192}


async def test_an_ollama_that_holds_nothing_and_answers_no_prompt_leaves_the_route(
    bench: Bench, watched: Watched
) -> None:
    dead, sound = await bench.engine(behaviour := Engine()), await bench.engine(Engine())
    behaviour.generates = False
    services = await watched(row(1, dead.url), row(2, sound.url, engine="openai", priority=1))
    assert await asyncio.wait_for(answer(services, call()), 2) == SAID
    assert state_of(services, dead) == "open"


async def test_an_ollama_that_may_still_be_loading_is_given_time(bench: Bench, watched: Watched) -> None:
    engine = await bench.engine(behaviour := Engine())
    behaviour.loaded = [{"name": "m:latest", "expires_at": "2999-01-01T00:00:00Z"}]
    behaviour.thinks = 0.5
    services = await watched(row(1, engine.url))
    assert await answer(services, call()) == SAID
    assert services.gates.states()[0].trips == 0


async def test_a_backend_that_was_deleted_is_asked_no_more(bench: Bench, watched: Watched) -> None:
    engine, other = await bench.engine(behaviour := Engine()), await bench.engine(Engine())
    services = await watched(row(1, engine.url, engine="openai"), row(2, other.url, engine="openai"))
    await until(lambda: bool(behaviour.probes))
    await bench.registry.put(row(2, other.url, engine="openai"))
    await until(lambda: len(services.gates) == 1)
    await asyncio.sleep(0.15)  # what was on its way
    asked = len(engine.asked)
    await asyncio.sleep(0.4)
    assert len(engine.asked) == asked


async def test_a_model_that_the_engine_lacks_does_not_take_it_out_of_the_route(bench: Bench, watched: Watched) -> None:
    async def lacks(asked: Asked) -> None:
        await asked.answer(200 if asked.method == "GET" else 404, b'{"error": "no such model"}')

    engine = await bench.engine(lacks)
    services = await watched(row(1, engine.url, engine="openai"))
    await until(lambda: len([asked for asked in engine.asked if asked.method == "POST"]) >= 3)
    assert state_of(services, engine) == "closed"


async def test_an_engine_is_not_blamed_for_what_came_too_late_because_the_router_slept(
    bench: Bench, watched: Watched
) -> None:
    pages: list[Asked] = []

    async def takes_its_time(asked: Asked) -> None:
        if asked.method == "GET":
            pages.append(asked)
            await asyncio.sleep(0.05)
            await asked.answer(200, b"{}")
        else:
            await asyncio.sleep(0.3)
            await serve(asked)

    engine = await bench.engine(takes_its_time)
    services = await watched(row(1, engine.url, engine="openai"), periods=Periods(tick=0.01, suspect_after=0.05))
    waiting = asyncio.create_task(answer(services, call()))
    await until(lambda: bool(pages))
    time.sleep(1.0)  # noqa: ASYNC251 - beyond the time that the engine has to answer
    assert await waiting == SAID
    assert services.gates.states()[0].trips == 0
