"""An `auto` backend that goes by what was measured, with engines behind it; and by default, as before."""

import asyncio
import json
from functools import partial
from itertools import pairwise
from random import Random

import pytest

from athena.router.board import Board
from athena.router.breaker import Reason
from athena.router.call import Call
from athena.router.engines import ENGINES
from athena.router.gates import Gates
from athena.router.judge import BUSY_SECONDS, LACKING_SECONDS, MEASURED, MLX_FIRST, WEIGHTED, Judge, why
from athena.router.routes import Door, first_group, route_of
from athena.router.services import RouterServices
from athena.router.types import Abilities, Backend, BackendType, Dialect, Operation
from athena.settings import RouterSettings
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import Asked, missing, serve, serve_like_mlx, until
from tests.router.test_dispatch import relayed

OLLAMA = "http://ollama.example.internal:11434"


def call(size: int = 100, *, model: str = "m", stream: bool = True) -> Call:
    """Return a conversation of about so many bytes."""
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "x" * size}]}
    return Call(Dialect.OLLAMA, Operation.CHAT, json.dumps(body).encode())


class World:
    """A route with gates whose clock a test sets."""

    def __init__(self, *rows: Backend) -> None:
        self.now = 1000.0
        random = Random(1)  # noqa: S311 - repeatable, nothing secret
        self.gates = Gates(Board(), queue_seconds=30, random=random, clock=lambda: self.now)
        self.route = route_of(
            list(rows), model="m", ollama_url=OLLAMA, engines=ENGINES, gate=partial(self.gates.gate, known=True)
        )
        self.judge = Judge(random, auto=True, hosts=WEIGHTED)

    def learn(self, engine: BackendType, *, size: int, first: float, rate: float) -> None:
        """Let the judge see ten replies of an engine."""
        door = next(door for door in self.route.doors if door.target.engine is engine)
        for _ in range(10):
            asked = call(size)
            self.judge.learn(
                door,
                asked,
                unread=len(asked.body),
                others=0,
                first=first,
                tokens=100,
                writing=100 / rate,
                now=self.now,
            )

    def order(self, size: int = 100) -> list[BackendType]:
        """Return the engines in order for a prompt of such a size."""
        return [door.target.engine for door in self.doors(size)]

    def doors(self, size: int = 100) -> list[Door]:
        """Return the doors in order."""
        return self.judge.order(self.route.order(Random(2)), call(size))  # noqa: S311 - as above


def auto(number: int = 1, **more: object) -> Backend:
    """Return an `auto` backend."""
    fields = {"backend_type": BackendType.AUTO, "endpoint_url": f"http://mac{number}.example.internal"} | more
    return Backend(model_name="m", id=number, **fields)  # type: ignore[arg-type] # fields of any type


def measured() -> World:
    """Return one where MLX writes twice as fast, and Ollama reads long prompts in a fifth of the time."""
    world = World(auto())
    for size, mlx, ollama in ((100, 0.2, 0.3), (60_000, 100.0, 20.0)):
        world.learn(BackendType.MLX, size=size, first=mlx, rate=40)
        world.learn(BackendType.OLLAMA, size=size, first=ollama, rate=20)
    return world


def test_short_prompts_go_where_is_written_fast_and_long_ones_where_is_read_fast() -> None:
    world = measured()
    assert world.order(100) == [BackendType.MLX, BackendType.OLLAMA]
    assert world.order(60_000) == [BackendType.OLLAMA, BackendType.MLX]


def test_before_anything_was_measured_mlx_is_first() -> None:
    assert World(auto()).order() == [BackendType.MLX, BackendType.OLLAMA]


def test_an_engine_that_is_out_of_the_route_is_never_first() -> None:
    world = measured()
    mlx = world.route.doors[0].gate
    mlx.open(world.now, Reason.HUNG)
    for size in (100, 3000, 60_000):
        assert world.order(size)[0] is BackendType.OLLAMA


def test_whoever_was_put_first_is_waited_for_and_the_other_one_only_if_it_is_as_good() -> None:
    world = measured()
    swapped = world.doors(60_000)
    assert [door.target.engine for door in first_group(swapped)] == [BackendType.OLLAMA]
    assert [door.gate for door in swapped] == [door.gate for door in reversed(world.route.doors)]


def test_priorities_and_other_backends_stay_as_they_are() -> None:
    rows = [auto(1), auto(2, priority=1), auto(3, backend_type=BackendType.OPENAI, priority=2)]
    world = World(*rows)
    for size in (100, 60_000):
        assert [door.target.backend.id for door in world.doors(size)] == [
            door.target.backend.id
            for door in world.route.order(Random(2))  # noqa: S311 - as above
        ]


def test_what_other_backends_do_is_not_kept() -> None:
    world = World(auto(1, backend_type=BackendType.OPENAI), auto(2, priority=1))
    door = world.route.doors[0]
    world.judge.learn(door, call(), unread=1, others=0, first=1.0, tokens=9, writing=1.0, now=1.0)
    assert world.judge.known == 0


def test_of_a_reply_that_came_in_one_piece_the_whole_is_kept() -> None:
    world = World(auto())
    mlx, ollama = world.route.doors
    for _ in range(5):
        world.judge.learn(mlx, call(), unread=100, others=0, first=None, tokens=100, writing=3.0, now=world.now)
        world.judge.learn(ollama, call(), unread=100, others=0, first=None, tokens=100, writing=2.0, now=world.now)
    assert world.order()[0] is BackendType.OLLAMA
    told = why("m", world.route.doors, world.judge).choices[0]
    assert f"ollama at {OLLAMA} is expected to be done in" in told.because


def test_why_tells_the_figures_for_each_length_and_changes_nothing() -> None:
    world = measured()
    told = why("m", world.route.doors, world.judge)
    assert told == why("m", world.route.doors, world.judge)
    assert told.policy == MEASURED
    assert [one.up_to_bytes for one in told.choices] == [1024, 4096, 16384, 65536, None]
    assert told.choices[0].order[0] == "mlx at http://mac1.example.internal"
    assert told.choices[3].order[0] == f"ollama at {OLLAMA}"
    assert "is expected to be done in" in told.choices[0].because
    assert "40.0 tokens/s" in told.choices[0].figures[0]


def test_why_without_measuring_tells_the_routes_order_and_who_is_out_of_it() -> None:
    world = World(auto())
    world.route.doors[0].gate.open(world.now, Reason.UNREACHABLE)
    told = why("m", world.route.doors, None)
    assert told.policy == MLX_FIRST
    (one,) = told.choices
    assert one.because == "the route's own order: by priority, MLX before the default Ollama of an auto backend"
    assert one.figures[0].startswith("mlx at http://mac1.example.internal: out of the route (unreachable)")
    assert "in the route, 0 of 1 slots in use, 0 waiting" in one.figures[1]


@pytest.mark.parametrize(
    ("rows", "told", "because"),
    [
        ([{}], "priority", "by priority"),
        ([{}, {"priority": 1}], "priority", "by priority"),
        ([{}, {}], "weighted", "by priority, then by weight"),
        ([{}, {"arm": "b"}], "arms", "by priority, then by the caller's arm"),
        (
            [{"backend_type": "auto"}, {"backend_type": "auto"}],
            "weighted and mlx_first",
            "by priority, then by weight, MLX before the default Ollama of an auto backend",
        ),
    ],
)
def test_why_names_the_policy_by_what_there_is_to_choose(
    rows: list[dict[str, object]], told: str, because: str
) -> None:
    kinds = [{"backend_type": BackendType.OPENAI} | one for one in rows]
    found = [
        auto(number, **kind | {"backend_type": BackendType(str(kind["backend_type"]))})
        for number, kind in enumerate(kinds, 1)
    ]
    said = why("m", World(*found).route.doors, None)
    assert said.policy == told
    assert said.choices[0].because == f"the route's own order: {because}"


def test_why_with_measuring_tells_who_is_out_of_it_and_what_each_can_do_as_well() -> None:
    world = World(auto(capabilities=Abilities(tools=False)))
    mlx, ollama = world.route.doors
    for engine in (BackendType.MLX, BackendType.OLLAMA):
        world.learn(engine, size=100, first=0.2, rate=40.0)

    def figures() -> tuple[str, ...]:
        return why("m", world.route.doors, world.judge).choices[0].figures

    assert all("40.0 tokens/s" in each for each in figures())
    assert figures()[0].endswith("; cannot: tools")
    mlx.gate.open(world.now, Reason.HUNG)
    world.judge.avoid(ollama, world.now, lacks_model=True)
    out, avoided = figures()
    assert out.startswith("mlx at http://mac1.example.internal: out of the route (hung)")
    assert "cannot: tools" in out
    assert avoided.endswith("left alone for a while after it would not reply")


async def slow_mlx(asked: Asked) -> None:
    """Answer as MLX does, after a while."""
    await asyncio.sleep(0.15)
    await serve_like_mlx(asked)


@pytest.mark.parametrize(("policy", "later"), [(MLX_FIRST, BackendType.MLX), (MEASURED, BackendType.OLLAMA)])
async def test_a_slow_mlx_is_left_where_it_is_measured_and_only_there(
    bench: Bench, policy: str, later: BackendType
) -> None:
    mlx, ollama = await bench.engine(slow_mlx), await bench.engine(serve)
    bench.registry.rows = [row(1, mlx.url, engine="auto")]
    settings = await bench.settings(ollama.url)
    settings = RouterSettings.model_validate(settings.model_dump() | {"router_auto_policy": policy})
    async with RouterServices(settings) as services:
        await until(lambda: services.configuration.snapshot.complete)
        served = []
        for _ in range(8):
            reply = await services.dispatcher.open(call())
            await relayed(reply)
            served.append(reply.target.engine)
        assert served[0] is BackendType.MLX
        assert served[-4:] == [later] * 4
        told = await services.dispatcher.why("m")
        assert told.policy == policy
        assert told.choices[0].order[0].startswith(later.value)


async def test_an_ollama_that_lacks_the_model_is_asked_once_and_then_left_alone(bench: Bench) -> None:
    mlx, ollama = await bench.engine(serve_like_mlx), await bench.engine(missing)
    bench.registry.rows = [row(1, mlx.url, engine="auto")]
    settings = await bench.settings(ollama.url)
    settings = RouterSettings.model_validate(settings.model_dump() | {"router_auto_policy": MEASURED})
    async with RouterServices(settings) as services:
        await until(lambda: services.configuration.snapshot.complete)
        for _ in range(8):
            reply = await services.dispatcher.open(call())
            await relayed(reply)
            assert reply.target.engine is BackendType.MLX
    assert len(ollama.asked) == 1


@pytest.mark.parametrize(("retry_after", "left"), [("retry-after: 0\r\n", False), ("", True)])
async def test_a_busy_engine_is_left_alone_for_as_long_as_it_says(bench: Bench, retry_after: str, left: bool) -> None:
    async def busy(asked: Asked) -> None:
        await asked.answer(503, b'{"error": "busy"}', more=retry_after)

    engines = [await bench.engine(busy), await bench.engine(serve)]
    services = await bench.router(*(row(number, engine.url) for number, engine in enumerate(engines, 1)))
    while not engines[0].asked:
        await relayed(await services.dispatcher.open(call()))
    figures = [figure for figure in (await services.dispatcher.why("m")).choices[0].figures if engines[0].url in figure]
    assert [("left alone for a while" in figure) for figure in figures] == [left]


def test_one_that_is_busy_is_first_again_before_one_that_lacks_the_model() -> None:
    for lacks_model, seconds in ((False, BUSY_SECONDS), (True, LACKING_SECONDS)):
        world = measured()
        assert world.order()[0] is BackendType.MLX
        world.judge.avoid(world.route.doors[0], world.now, lacks_model=lacks_model)
        world.now += seconds - 0.5
        assert world.order()[0] is BackendType.OLLAMA
        world.now += 1
        assert world.order()[0] is BackendType.MLX


def test_the_default_is_mlx_first() -> None:
    assert RouterSettings().router_auto_policy == MLX_FIRST


def served(world: World, prompts: int, seconds: dict[BackendType, float], *, every: float) -> list[BackendType]:
    """Let so many prompts come, one after the other, whose engines give their first token in so many seconds."""
    chosen = []
    for _ in range(prompts):
        world.now += every
        door, asked = world.doors()[0], call()
        engine = door.target.engine
        chosen.append(engine)
        world.judge.learn(
            door, asked, unread=len(asked.body), others=0, first=seconds[engine], tokens=1, writing=0.01, now=world.now
        )
    return chosen


def test_one_that_is_tried_to_see_how_fast_it_is_is_not_kept_to() -> None:
    world = World(auto())
    steady = {BackendType.MLX: 2.0, BackendType.OLLAMA: 2.2}
    served(world, 20, steady, every=1.0)
    chosen = served(world, 3000, steady, every=1.0)
    rarer = min(steady, key=chosen.count)
    assert 5 < chosen.count(rarer) < 60, "a little, to see"
    assert (rarer, rarer) not in pairwise(chosen)


def test_one_that_was_far_too_slow_is_found_to_have_recovered() -> None:
    world = World(auto())
    served(world, 20, {BackendType.MLX: 30.0, BackendType.OLLAMA: 2.5}, every=1.0)
    assert set(served(world, 500, {BackendType.MLX: 30.0, BackendType.OLLAMA: 2.5}, every=1.0)) == {BackendType.OLLAMA}
    recovered = served(world, 1000, {BackendType.MLX: 0.6, BackendType.OLLAMA: 2.5}, every=1.0)
    assert set(recovered[-100:]) == {BackendType.MLX}
