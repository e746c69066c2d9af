"""Engines that hang, die, recover or are only busy, as a router sees that watches and probes them."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from structlog.testing import capture_logs

from athena.router.board import CHECKED_AT, GENERATED_AT, SAMPLES, SERVICE_SECONDS
from athena.router.errors import NoBackendError
from athena.router.gate import Gate
from athena.router.periods import Periods
from athena.router.services import RouterServices
from athena.router.types import Backend
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import Asked, StandIn, refused_url, serve, until
from tests.router.test_dispatch import SAID, answer, call
from tests.router.test_watch import Waiting

QUICK = Periods(
    tick=0.01,
    suspect_after=0.05,
    suspect_again=0.2,
    silent_after=0.15,
    reads_after=0.05,
    check_every=0.1,
    check_within=0.08,
    generate_every=0.15,
    generate_within=0.12,
    trial_every=0.05,
    load=0.6,
    fresh=0.1,
)


class Engine:
    """A behaviour that can be told what to do with prompts and with the cheap questions; it counts the probes."""

    def __init__(self) -> None:
        self.answers = True
        self.generates = True
        self.thinks = 0.0
        self.loaded: list[dict[str, object]] = []
        self.probes: list[Asked] = []
        self.prompts: list[str] = []
        self._free = asyncio.Lock()

    async def __call__(self, asked: Asked) -> None:
        """Answer one request; prompts one after the other, as an engine without parallelism does."""
        if not self.answers:
            await asked.until_left()
        elif asked.method == "GET":
            await asked.answer(200, json.dumps({"models": self.loaded}).encode())
        else:
            if asked.prompt == "Hi":
                self.probes.append(asked)
            else:
                self.prompts.append(asked.prompt)
            if not self.generates:
                await asked.until_left()
                return
            async with self._free:
                await asyncio.sleep(self.thinks)
                await serve(asked)


Watched = Callable[..., Awaitable[RouterServices]]


@pytest.fixture
def watched(bench: Bench) -> Watched:
    """Start a router that watches and probes, and knows these rows."""

    async def start(*rows: Backend, periods: Periods = QUICK) -> RouterServices:
        return await bench.router(*rows, periods=periods)

    return start


def gate_of(services: RouterServices, engine: StandIn) -> Gate:
    """Return the gate of an engine."""
    return next(gate for gate in services.gates if gate.endpoint_url == engine.url)


def state_of(services: RouterServices, engine: StandIn) -> str:
    """Return the state of an engine's breaker."""
    return next((one.state for one in services.gates.states() if one.endpoint == engine.url), "unknown")


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


LONG_DOUBT = Periods(tick=0.01, suspect_after=0.05, check_within=1.0)


def prompts_at(engine: StandIn) -> int:
    """Return how many prompts an engine has met."""
    return len([asked for asked in engine.asked if asked.method == "POST"])


async def test_an_engine_in_doubt_gets_no_more_requests_while_there_is_another(bench: Bench, watched: Watched) -> None:
    hung, sound = await bench.engine(behaviour := Engine()), await bench.engine(Engine())
    behaviour.answers = False
    services = await watched(
        row(1, hung.url, engine="openai"), row(2, sound.url, engine="openai", priority=1), periods=LONG_DOUBT
    )
    first = asyncio.create_task(answer(services, call()))
    await until(lambda: services.gates.any_in_doubt)
    assert [await answer(services, call()) for _ in range(20)] == [SAID] * 20
    assert state_of(services, hung) == "closed", "it may still turn out to be sound"
    assert prompts_at(hung) == 1
    assert await first == SAID
    assert state_of(services, hung) == "open"
    await until(lambda: not services.gates.any_in_doubt)  # it is noted with the next tick


async def test_an_engine_in_doubt_is_asked_where_the_others_are_all_at_work(bench: Bench, watched: Watched) -> None:
    hung, busy = await bench.engine(behaviour := Engine()), await bench.engine(other := Engine())
    behaviour.answers = False
    services = await watched(
        row(1, hung.url, engine="openai"),
        row(2, busy.url, engine="openai", priority=1, max_concurrency=1),
        periods=LONG_DOUBT,
    )
    first = asyncio.create_task(answer(services, call()))
    await until(lambda: services.gates.any_in_doubt)
    other.thinks = 0.3
    second, third = (asyncio.create_task(answer(services, call())) for _ in range(2))
    await until(lambda: prompts_at(hung) == 2)
    assert prompts_at(busy) == 1
    for waiting in (first, second, third):
        assert await waiting == SAID


async def test_a_doubt_ends_when_the_engine_answers(bench: Bench, watched: Watched) -> None:
    slow, other = await bench.engine(behaviour := Engine()), await bench.engine(Engine())
    behaviour.thinks = 0.3
    services = await watched(
        row(1, slow.url, engine="openai"), row(2, other.url, engine="openai", priority=1), periods=LONG_DOUBT
    )
    first = asyncio.create_task(answer(services, call()))
    await until(lambda: any(gate.cells[CHECKED_AT] for gate in services.gates))
    await until(lambda: not services.gates.any_in_doubt)
    assert await answer(services, call()) == SAID
    assert await first == SAID
    assert not prompts_at(other)


async def test_an_engine_in_doubt_is_asked_where_there_is_no_other(bench: Bench, watched: Watched) -> None:
    engine = await bench.engine(behaviour := Engine())
    behaviour.answers = False
    services = await watched(row(1, engine.url, engine="openai"), periods=LONG_DOUBT)
    first = asyncio.create_task(answer(services, call()))
    await until(lambda: services.gates.any_in_doubt)
    second = asyncio.create_task(answer(services, call()))
    await until(lambda: prompts_at(engine) == 2)
    for waiting in (first, second):
        waiting.cancel()
    await asyncio.gather(first, second, return_exceptions=True)


# Nobody but the requests themselves raises suspicion, and what is in doubt stays so.
ALARMS = Periods(suspect_after=60.0, check_every=60.0, check_within=30.0, doubt=60.0, generate_every=60.0)


async def test_one_request_of_many_meets_an_engine_that_has_never_answered(bench: Bench, watched: Watched) -> None:
    hung, sound = await bench.engine(behaviour := Engine()), await bench.engine(Engine())
    behaviour.answers = False
    services = await watched(
        row(1, hung.url, engine="openai", max_concurrency=100),
        row(2, sound.url, engine="openai", priority=1, max_concurrency=100),
        periods=ALARMS,
    )
    first = asyncio.create_task(answer(services, call()))
    assert await asyncio.gather(*(answer(services, call()) for _ in range(64))) == [SAID] * 64
    assert prompts_at(hung) == 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_few_requests_meet_an_engine_that_begins_to_hang_under_load(bench: Bench, watched: Watched) -> None:
    hung, sound = await bench.engine(behaviour := Engine()), await bench.engine(Engine())
    services = await watched(
        row(1, hung.url, engine="openai", max_concurrency=100),
        row(2, sound.url, engine="openai", priority=1, max_concurrency=100),
        periods=msgspec.structs.replace(ALARMS, suspect_after=0.0, owed_after=0.0, asked_apart=0.0),
    )
    for _ in range(10):
        assert await answer(services, call()) == SAID
    served = prompts_at(hung)
    assert served
    await until(lambda: not services.gates.any_in_doubt)
    behaviour.answers = False
    waiting = [asyncio.create_task(answer(services, call())) for _ in range(64)]
    await until(lambda: sum(task.done() for task in waiting) >= 62)
    assert 1 <= prompts_at(hung) - served <= 2, "the one that waits, and the one that found that it does"
    for task in waiting:
        task.cancel()
    assert (await asyncio.gather(*waiting, return_exceptions=True)).count(SAID) >= 62


async def test_few_requests_go_elsewhere_while_a_slow_engine_is_asked_whether_it_lives(
    bench: Bench, watched: Watched
) -> None:
    busy, other = await bench.engine(Engine()), await bench.engine(Engine())
    services = await watched(
        row(1, busy.url, engine="openai", max_concurrency=100),
        row(2, other.url, engine="openai", priority=1, max_concurrency=100),
        periods=msgspec.structs.replace(ALARMS, owed_after=0.0, asked_apart=1e9, suspect_again=1e9),
    )
    assert await answer(services, call()) == SAID  # the first question, since it had never answered
    await until(lambda: not services.gates.any_in_doubt)
    gate = gate_of(services, busy)
    now = services.gates.clock()
    for after in (0.0, 100.0, 200.0):
        gate.asked(now + after, Waiting(now + after, 4.0))
    assert not services.gates.any_in_doubt, "it answered the question, and is left alone for a while"


async def test_what_other_workers_are_answered_shows_that_an_engine_lives(bench: Bench, watched: Watched) -> None:
    engine, other = await bench.engine(Engine()), await bench.engine(Engine())
    services = await watched(
        row(1, engine.url, engine="openai", max_concurrency=100),
        row(2, other.url, engine="openai", priority=1),
        periods=msgspec.structs.replace(ALARMS, asked_apart=0.0),
    )
    assert await answer(services, call()) == SAID
    await until(lambda: not services.gates.any_in_doubt)
    gate = gate_of(services, engine)
    now = services.gates.clock()
    gate.owes_since = now  # of this worker alone
    gate.cells[GENERATED_AT] = now + 200.0
    gate.asked(now + 200.001, Waiting(now + 200.001, 4.0))
    assert not services.gates.any_in_doubt
    gate.asked(now + 300.0, Waiting(now + 300.0, 4.0))
    assert services.gates.any_in_doubt


async def test_a_caller_that_left_leaves_no_answer_owed(bench: Bench, watched: Watched) -> None:
    engine, other = await bench.engine(behaviour := Engine()), await bench.engine(Engine())
    services = await watched(
        row(1, engine.url, engine="openai"), row(2, other.url, engine="openai", priority=1), periods=ALARMS
    )
    behaviour.answers = False
    asked = asyncio.create_task(answer(services, call()))
    await until(lambda: prompts_at(engine) == 1)
    gate = gate_of(services, engine)
    assert gate.owes_since
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert not gate.owes_since


async def test_the_more_replies_come_the_sooner_is_their_lack_noticed(bench: Bench, watched: Watched) -> None:
    engine, other = await bench.engine(Engine()), await bench.engine(Engine())
    services = await watched(
        row(1, engine.url, engine="openai", max_concurrency=100),
        row(2, other.url, engine="openai", priority=1),
        periods=ALARMS,
    )
    assert await answer(services, call()) == SAID
    await until(lambda: not services.gates.any_in_doubt)
    gate = gate_of(services, engine)
    gate.cells[SAMPLES], gate.cells[SERVICE_SECONDS] = 4, 1.0
    assert all(gate.try_enter() for _ in range(20))  # one of them should be answered each twentieth of a second
    now = services.gates.clock()

    def in_doubt(after: float, *, avoidable: bool = True) -> bool:
        flight = Waiting(now + after, 4.0)
        flight.avoidable = avoidable
        gate.asked(flight.begun, flight)
        return services.gates.any_in_doubt

    assert not in_doubt(0.0)
    assert not in_doubt(0.19)
    assert not in_doubt(0.21, avoidable=False), "without another engine there is nothing to be gained"
    assert in_doubt(0.21)
    for _ in range(20):
        gate.leave()


async def test_nothing_is_asked_at_once_where_there_is_no_other_engine(bench: Bench, watched: Watched) -> None:
    engine = await bench.engine(behaviour := Engine())
    behaviour.answers = False
    services = await watched(row(1, engine.url, engine="openai", max_concurrency=10), periods=ALARMS)
    waiting = [asyncio.create_task(answer(services, call())) for _ in range(5)]
    await until(lambda: prompts_at(engine) == 5)
    assert not gate_of(services, engine).cells[CHECKED_AT]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_engine_that_answers_requests_stays_though_it_is_too_busy_for_a_question(
    bench: Bench, watched: Watched
) -> None:
    async def busy(asked: Asked) -> None:
        await (asked.until_left() if asked.method == "GET" else serve(asked))

    engine = await bench.engine(busy)
    services = await watched(
        row(1, engine.url, engine="openai"), periods=msgspec.structs.replace(ALARMS, tick=0.01, check_within=1.0)
    )
    assert await answer(services, call()) == SAID
    gate_of(services, engine).suspected = True
    await until(lambda: services.gates.any_in_doubt)
    while services.gates.any_in_doubt:
        assert await answer(services, call()) == SAID
    assert state_of(services, engine) == "closed"


async def test_without_another_engine_a_request_goes_on_waiting_for_the_one_that_hangs(
    bench: Bench, watched: Watched
) -> None:
    engine = await bench.engine(hung := Engine())
    hung.answers = False
    services = await watched(row(1, engine.url, engine="openai", timeout_seconds=1))
    waiting = asyncio.create_task(answer(services, call()))
    await until(lambda: state_of(services, engine) == "open")
    started = time.monotonic()
    with pytest.raises(NoBackendError, match="out of the route") as caught:
        await answer(services, call())
    assert time.monotonic() - started < 0.2, "the next one is told at once"
    assert caught.value.retry_after is not None
    with pytest.raises(NoBackendError, match="no answer within 1 s"):
        await waiting


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
