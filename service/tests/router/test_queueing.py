"""More requests than the engines take at once: who waits, who goes elsewhere, who is turned away."""

import asyncio
import time

import pytest

from athena.router.backend_state import BackendState
from athena.router.breaker import Reason
from athena.router.errors import (
    BackendError,
    FailureKind,
    ModelNotFoundError,
    NoBackendError,
    QueueFullError,
    StreamBrokenError,
    TooManyWaitingError,
)
from athena.router.policy import blames_engine, concurrency, queue_length
from athena.router.services import RouterServices
from athena.router.types import BackendType
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import (
    Asked,
    StandIn,
    fail,
    hang,
    hang_after_first_token,
    missing,
    refused_url,
    reply_to,
    serve,
    until,
)
from tests.router.test_dispatch import SAID, answer, call


class Slow:
    """An engine that serves once it is let; it counts how many it has at once."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.running = self.most = 0

    async def __call__(self, asked: Asked) -> None:
        """Answer one request."""
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go_on.wait()
            await serve(asked)
        finally:
            self.running -= 1


def states(services: RouterServices) -> dict[int | None, BackendState]:
    """Return the state of each backend."""
    return {one.id: one for one in services.gates.states()}


def queued(services: RouterServices, number: int) -> int:
    """Return how many wait for a backend."""
    return next((one.queued for one in services.gates.states() if one.id == number), 0)


def ask(services: RouterServices, number: int = 1, **more: str | int) -> list["asyncio.Task[str]"]:
    """Start some calls; `caller` and `priority` may be said."""
    tasks = []
    for _ in range(number):
        asked = call()
        asked.caller = str(more.get("caller", ""))
        asked.priority = int(more.get("priority", 1))
        tasks.append(asyncio.create_task(answer(services, asked)))
    return tasks


async def test_an_ollama_gets_one_request_at_a_time_and_the_others_wait(bench: Bench) -> None:
    engine = await bench.engine(slow := Slow())
    services = await bench.router(row(1, engine.url))
    calls = ask(services, 10)
    await until(lambda: slow.running == 1)
    await until(lambda: queued(services, 1) == 9)
    slow.go_on.set()
    assert await asyncio.gather(*calls) == [SAID] * 10
    assert slow.most == 1
    assert (states(services)[1].in_use, queued(services, 1)) == (0, 0)


async def test_a_backend_gets_as_many_at_once_as_its_row_says_and_follows_a_change_of_it(bench: Bench) -> None:
    engine = await bench.engine(slow := Slow())
    services = await bench.router(row(1, engine.url, max_concurrency=3))
    calls = ask(services, 8)
    await until(lambda: slow.running == 3)
    await bench.registry.put(row(1, engine.url, max_concurrency=6))
    await until(lambda: services.configuration.snapshot.version == 2)
    calls += ask(services, 1)
    await until(lambda: slow.running == 6)
    slow.go_on.set()
    assert await asyncio.gather(*calls) == [SAID] * 9
    assert slow.most == 6


async def test_a_stream_holds_its_place_until_it_has_ended(bench: Bench) -> None:
    engine = await bench.engine(hang_after_first_token)
    services = await bench.router(row(1, engine.url))
    reply = await services.dispatcher.open(call())
    (waiting,) = ask(services)
    await until(lambda: queued(services, 1) == 1)
    engine.behaviour = serve
    reply.close()
    assert await waiting == SAID


async def test_the_next_backend_gets_only_what_the_queue_of_the_first_does_not_hold(bench: Bench) -> None:
    first, second = await bench.engine(slow := Slow()), await bench.engine(other := Slow())
    services = await bench.router(row(1, first.url, max_queue=2), row(2, second.url, priority=1))
    calls = ask(services, 3)
    await until(lambda: queued(services, 1) == 2)
    assert other.running == 0
    calls += ask(services, 1)
    await until(lambda: other.running == 1)
    slow.go_on.set()
    other.go_on.set()
    assert await asyncio.gather(*calls) == [SAID] * 4
    assert (len(first.asked), len(second.asked)) == (3, 1)


async def test_a_request_waits_for_all_equal_backends_and_goes_to_the_first_that_is_free(bench: Bench) -> None:
    first, second = await bench.engine(slow := Slow()), await bench.engine(other := Slow())
    services = await bench.router(row(1, first.url), row(2, second.url))
    calls = ask(services, 2)
    await until(lambda: slow.running == other.running == 1)
    calls += ask(services, 1)
    await until(lambda: queued(services, 1) == queued(services, 2) == 1)
    other.go_on.set()
    await until(lambda: len(second.asked) == 2)
    await until(lambda: queued(services, 1) == 0)
    slow.go_on.set()
    assert await asyncio.gather(*calls) == [SAID] * 3
    assert len(first.asked) == 1


async def test_who_finds_the_queue_full_is_told_when_to_come_back(bench: Bench) -> None:
    engine = await bench.engine(slow := Slow())
    services = await bench.router(row(1, engine.url, max_queue=2))
    calls = ask(services, 3)
    await until(lambda: queued(services, 1) == 2)
    with pytest.raises(QueueFullError, match="2 requests wait already") as caught:
        await answer(services, call())
    assert (caught.value.status, caught.value.code) == (503, "overloaded")
    assert caught.value.retry_after is not None
    slow.go_on.set()
    assert await asyncio.gather(*calls) == [SAID] * 3


async def test_a_caller_that_fills_the_queue_gives_way_to_another(bench: Bench) -> None:
    engine = await bench.engine(slow := Slow())
    services = await bench.router(row(1, engine.url, max_queue=4))
    greedy = ask(services, 5, caller="greedy")
    await until(lambda: queued(services, 1) == 4)
    (modest,) = ask(services, 1, caller="modest")
    await until(lambda: any(one.done() for one in greedy))
    slow.go_on.set()
    assert await modest == SAID
    ends = await asyncio.gather(*greedy, return_exceptions=True)
    assert [type(one) for one in ends].count(TooManyWaitingError) == 1
    assert ends.count(SAID) == 4


async def test_the_urgent_overtake_those_who_wait(bench: Bench) -> None:
    engine = await bench.engine(slow := Slow())
    services = await bench.router(row(1, engine.url))
    first = ask(services, 1)
    await until(lambda: slow.running == 1)
    order: list[str] = []
    late = []
    for name, priority in (("low", 2), ("normal", 1), ("high", 0)):
        (one,) = ask(services, 1, priority=priority, caller=name)
        one.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]  # a default argument
        late.append(one)
        await asyncio.sleep(0)
    await until(lambda: queued(services, 1) == 3)
    slow.go_on.set()
    await asyncio.gather(*first, *late)
    assert order == ["high", "normal", "low"]


async def test_nobody_waits_longer_than_the_settings_allow(bench: Bench) -> None:
    engine = await bench.engine(hang)
    services = await bench.router(row(1, engine.url))
    services.gates.queue_seconds = 0.1
    (running,) = ask(services)
    await until(lambda: len(engine.asked) == 1)
    started = time.monotonic()
    with pytest.raises(QueueFullError, match=r"no slot within 0\.1 s"):
        await answer(services, call())
    assert time.monotonic() - started < 1.0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (states(services)[1].in_use, queued(services, 1)) == (0, 0)


async def test_a_caller_who_leaves_while_it_waits_leaves_the_queue_at_once(bench: Bench) -> None:
    engine = await bench.engine(slow := Slow())
    services = await bench.router(row(1, engine.url))
    calls = ask(services, 3)
    await until(lambda: queued(services, 1) == 2)
    calls[1].cancel()
    await until(lambda: queued(services, 1) == 1)
    slow.go_on.set()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert ends[0] == ends[2] == SAID
    assert len(engine.asked) == 2


async def test_those_who_wait_for_an_engine_that_dies_go_to_the_next(bench: Bench) -> None:
    first, second = await bench.engine(hang), await bench.engine()
    services = await bench.router(
        row(1, first.url, max_concurrency=3, timeout_seconds=1), row(2, second.url, priority=1)
    )
    assert await asyncio.gather(*ask(services, 9)) == [SAID] * 9
    assert states(services)[1].state == "open"
    assert len(first.asked) <= 5, "the queue was sent on when the third had failed"


async def test_with_every_engine_out_a_caller_is_told_at_once(bench: Bench) -> None:
    failing, gone = await bench.engine(fail), refused_url()
    services = await bench.router(row(1, failing.url), row(2, gone, priority=1))
    with pytest.raises(NoBackendError):
        await answer(services, call())
    for gate in services.gates:  # as the watch does when it finds that they answer nothing
        gate.open(services.gates.clock(), Reason.UNREACHABLE)
    with pytest.raises(NoBackendError, match=r"out of the route \(unreachable\) since status: status 500") as caught:
        await answer(services, call())
    assert "memory" not in caught.value.detail, "what the engine said was said of another's prompt"
    assert len(failing.asked) == 1
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 1.0
    assert len(caught.value.attempts) == 2


async def test_without_a_prober_one_request_tries_whether_an_engine_has_come_back(bench: Bench) -> None:
    engine, other = await bench.engine(fail), await bench.engine()
    services = await bench.router(row(1, engine.url), row(2, other.url, priority=1))
    for _ in range(5):
        assert await answer(services, call()) == SAID
    assert len(engine.asked) == 3
    engine.behaviour = serve
    await asyncio.sleep(1.05)  # the first pause of a breaker
    assert await answer(services, call()) == SAID
    assert len(engine.asked) == 4
    assert states(services)[1].state == "closed"


async def test_an_engine_that_names_a_time_is_left_alone_until_then(bench: Bench) -> None:
    async def busy(asked: Asked) -> None:
        await asked.answer(429, b'{"error": "slow down"}', more="retry-after: 30\r\n")

    engine, other = await bench.engine(busy), await bench.engine()
    services = await bench.router(row(1, engine.url, engine="openai"), row(2, other.url, priority=1))
    for _ in range(5):
        assert await answer(services, call()) == SAID
    assert len(engine.asked) == 1
    assert states(services)[1].state == "closed"
    await bench.registry.put(row(1, engine.url, engine="openai"))
    await until(lambda: services.configuration.snapshot.version == 2)
    with pytest.raises(NoBackendError, match="overloaded") as caught:
        await answer(services, call())
    assert caught.value.retry_after is not None
    assert 25 < caught.value.retry_after <= 30


@pytest.mark.parametrize(
    ("said", "longest"),
    [
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("9" * 30, 3600.0),
        ("Mon, 01 Jan 0001 00:00:00 -0000", 0.0),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", 0.0),
        ("Mon, 01 Jan 2024 00:00:00 +9999", 0.0),
        ("soon", 0.0),
    ],
)
async def test_no_word_of_an_engine_shuts_it_out_for_ever_or_keeps_a_slot(
    bench: Bench, said: str, longest: float
) -> None:
    async def busy(asked: Asked) -> None:
        await asked.answer(503, b'{"error": "busy"}', more=f"retry-after: {said}\r\n")

    engine, other = await bench.engine(busy), await bench.engine()
    services = await bench.router(row(1, engine.url, engine="openai"), row(2, other.url, priority=1))
    assert await answer(services, call()) == SAID
    one = next(state for state in services.gates.states() if state.id == 1)
    assert one.in_use == 0
    assert longest - 5 <= one.retry_in <= longest


async def test_an_engine_that_lacks_the_model_stays_the_one_that_says_so(bench: Bench) -> None:
    engine = await bench.engine(missing)
    services = await bench.router(row(1, engine.url))
    for _ in range(5):
        with pytest.raises(ModelNotFoundError):
            await answer(services, call())
    assert states(services)[1].state == "closed"


async def test_a_backend_that_was_deleted_is_seen_no_more(bench: Bench) -> None:
    first, second = await bench.engine(), await bench.engine()
    services = await bench.router(row(1, first.url), row(2, second.url))
    assert await answer(services, call()) == SAID
    assert set(states(services)) == {1, 2}
    await bench.registry.put(row(2, second.url))
    await until(lambda: services.configuration.snapshot.version == 2)
    assert await answer(services, call()) == SAID
    assert set(states(services)) == {2}


async def test_an_engine_that_never_answers_is_not_waited_for_again_and_again(bench: Bench) -> None:
    engine = await bench.engine(hang)
    services = await bench.router(row(1, engine.url, timeout_seconds=1, max_concurrency=3))
    ends = await asyncio.gather(*ask(services, 3), return_exceptions=True)
    assert all(isinstance(one, NoBackendError) for one in ends)
    started = time.monotonic()
    with pytest.raises(NoBackendError, match="unreachable"):
        await answer(services, call())
    assert time.monotonic() - started < 0.5


async def test_names_that_nobody_knows_share_a_few_places(bench: Bench) -> None:
    ollama = await bench.engine(missing)
    services = await bench.router(ollama_url=ollama.url)
    for number in range(300):
        with pytest.raises(ModelNotFoundError):
            await answer(services, call(model=f"no such model {number}"))
    assert len(services.gates.states()) <= 64
    assert [(one.backend_id, one.model) for one in services.gates.readings()] == [("default", "other")]


async def test_the_first_token_and_each_next_one_have_limits_of_their_own(bench: Bench) -> None:
    engine = await bench.engine(hang)
    services = await bench.router(row(1, engine.url, timeout_seconds=60, first_token_seconds=1, stall_seconds=1))
    started = time.monotonic()
    with pytest.raises(NoBackendError, match="no answer within 1 s"):
        await answer(services, call())
    engine.behaviour = hang_after_first_token
    with pytest.raises(StreamBrokenError, match="nothing came for 1 s"):
        await answer(services, call())
    assert time.monotonic() - started < 4.0


async def text_at_once(engine: StandIn, services: RouterServices) -> None:
    """Make many calls whose fate is a matter of chance."""
    calls = [call(prompt=f"caller {number}") for number in range(200)]
    texts = await asyncio.gather(*(answer(services, one) for one in calls))
    assert texts == ["".join(reply_to(f"caller {number}")) for number in range(200)]
    assert len(engine.asked) == 200


async def test_hundreds_of_callers_at_once_are_all_served_in_their_turn(bench: Bench) -> None:
    engine = await bench.engine()
    services = await bench.router(row(1, engine.url, max_concurrency=4, max_queue=1000))
    await text_at_once(engine, services)
    assert (states(services)[1].in_use, queued(services, 1)) == (0, 0)
    assert not any(gate.flights for gate in services.gates)


@pytest.mark.parametrize(("engine", "expected"), [("ollama", 1), ("mlx", 8), ("openai", 256)])
def test_engines_have_the_parallelism_that_they_come_with(engine: str, expected: int) -> None:
    kind = BackendType(engine)
    plain = row(1, "http://engine.example.internal", engine=engine)
    assert concurrency(plain, kind) == expected
    assert queue_length(plain, expected) == 4 * expected + 64
    said = row(1, "http://engine.example.internal", engine=engine, max_concurrency=3, max_queue=0)
    assert (concurrency(said, kind), queue_length(said, 3)) == (3, 0)


def test_what_an_auto_backend_says_is_meant_for_its_mlx() -> None:
    auto = row(1, "http://engine.example.internal", engine="auto", max_concurrency=20)
    assert (concurrency(auto, BackendType.MLX), concurrency(auto, BackendType.OLLAMA)) == (20, 1)
    assert concurrency(auto, BackendType.OLLAMA, ollama=4) == 4


@pytest.mark.parametrize(
    ("engine", "status", "blamed"),
    [
        ("openai", 429, False),
        ("ollama", 503, False),
        ("ollama", 404, False),
        ("mlx", 404, True),
        ("mlx", 503, True),
        ("openai", 500, True),
        ("openai", None, True),
    ],
)
def test_only_what_is_out_of_order_is_held_against_an_engine(engine: str, status: int | None, blamed: bool) -> None:
    error = BackendError(FailureKind.STATUS, "it said so", upstream_status=status)
    assert blames_engine(BackendType(engine), error) is blamed
