"""Several hosts for one model: the one that has it in memory, and has read the conversation, is asked first."""

import json
from collections.abc import Sequence
from functools import partial
from random import Random

import pytest

from athena.router.board import LOAD_SECONDS, RESIDENCE, SERVICE_SECONDS, Board
from athena.router.breaker import Reason
from athena.router.call import Call
from athena.router.engines import ENGINES
from athena.router.gates import Gates
from athena.router.judge import ARMS, WARM, WARM_AMONG_EQUALS, WEIGHTED, Judge, why
from athena.router.judging.warmth import Residence
from athena.router.periods import Periods
from athena.router.probing import Asker
from athena.router.residence import Residents
from athena.router.routes import Door, first_group, route_of
from athena.router.services import RouterServices
from athena.router.types import Abilities, Backend, BackendType, Dialect, Operation
from athena.router.upstream import UpstreamClient
from athena.settings import RouterSettings
from tests.engines.server import EngineServer
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import Asked, serve, until
from tests.router.test_dispatch import relayed

OLLAMA = "http://ollama.example.internal:11434"


def call(*turns: str, model: str = "m") -> Call:
    """Return a conversation."""
    messages = [{"role": "user", "content": turn} for turn in turns]
    body = {"model": model, "stream": True, "messages": messages}
    return Call(Dialect.OLLAMA, Operation.CHAT, json.dumps(body).encode())


class Hosts:
    """A route of Ollamas with gates whose clock a test sets, and a judge that has seen each of them reply."""

    def __init__(self, *weights: int, slots: int = 1, arms: Sequence[str] = (), policy: str = WARM) -> None:
        self.now = 1000.0
        random = Random(1)  # noqa: S311 - repeatable, nothing secret
        self.gates = Gates(Board(), queue_seconds=30, random=random, clock=lambda: self.now)
        rows = [
            Backend(
                model_name="m",
                id=number,
                backend_type=BackendType.OLLAMA,
                endpoint_url=f"http://host{number}.example.internal",
                weight=weight,
                max_concurrency=slots,
                arm=arms[number - 1] if arms else None,
            )
            for number, weight in enumerate(weights, 1)
        ]
        gate = partial(self.gates.gate, known=True)
        self.route = route_of(rows, model="m", ollama_url=OLLAMA, engines=ENGINES, gate=gate)
        self.judge = Judge(random, auto=False, hosts=policy)
        for door in self.route.doors:
            self.learn(door)

    def learn(self, door: Door, asked: Call | None = None, *, first: float = 1.0, load: float = 0.0) -> None:
        """Let the judge see four replies: of so many seconds to the first token of 10 KB, at 10 tokens a second."""
        for _ in range(4):
            self.judge.learn(
                door,
                asked or call("x" * 10_000),
                unread=10_000,
                others=0,
                first=first,
                tokens=10,
                writing=1.0,
                load=load,
                now=self.now,
            )

    def first(self, asked: Call) -> int | None:
        """Return the backend that is asked first."""
        return self.doors(asked)[0].target.backend.id

    def doors(self, asked: Call) -> list[Door]:
        """Return the doors in order."""
        return self.judge.order(self.route.order(Random(3)), asked)  # noqa: S311 - as above

    def __getitem__(self, number: int) -> Door:
        return next(door for door in self.route.doors if door.target.backend.id == number)


LONG = "tell me more of it, please. " * 400


def test_the_host_that_has_the_model_in_memory_is_first() -> None:
    hosts = Hosts(1, 1, 1)
    for door in hosts.route.doors:
        door.gate.cells[RESIDENCE] = Residence.AWAY
    hosts[2].gate.cells[RESIDENCE] = Residence.LOADED
    assert {hosts.first(call("hello")) for _ in range(20)} == {2}


def test_the_host_that_served_the_conversation_is_first_until_its_queue_is_the_longer_wait() -> None:
    hosts = Hosts(1, 1)
    for number in (1, 2):
        hosts.judge.sent(hosts[number], call(f"something else, {number}" * 900))
    earlier = call(LONG)
    hosts.judge.sent(hosts[2], earlier)
    again = call(LONG, "an answer", "and then?")
    assert {hosts.first(again) for _ in range(20)} == {2}
    gate = hosts[2].gate
    assert gate.try_enter()
    gate.cells[SERVICE_SECONDS] = 30.0
    assert hosts.first(again) == 1


def test_what_a_host_had_read_went_with_its_model() -> None:
    hosts = Hosts(1, 1)
    hosts.judge.sent(hosts[2], call(LONG))
    hosts[2].gate.cells[RESIDENCE] = Residence.AWAY
    assert hosts.first(call(LONG, "an answer", "and then?")) == 1


def test_an_ollama_keeps_one_prompt_for_each_slot() -> None:
    hosts = Hosts(1, 1)
    hosts.judge.sent(hosts[2], call(LONG))
    assert hosts.judge.sent(hosts[2], call("another one " * 900)) > 10_000
    assert hosts.judge.sent(hosts[2], call(LONG)) > 10_000, "the other one has pushed it out"
    assert hosts.judge.sent(hosts[2], call(LONG, "more")) < 6_000


def test_a_host_without_a_share_and_one_that_is_out_of_the_route_are_never_first() -> None:
    hosts = Hosts(1, 0, 1)
    hosts[1].gate.open(hosts.now, Reason.HUNG)
    for number in (1, 3):
        hosts[number].gate.cells[RESIDENCE] = Residence.AWAY
    assert [door.target.backend.id for door in hosts.doors(call("hello"))] == [3, 1, 2]


def test_a_request_waits_only_where_it_is_as_good_to_wait() -> None:
    hosts = Hosts(1, 1, 1)
    hosts[3].gate.cells[RESIDENCE] = Residence.AWAY
    for number in (1, 2):
        assert hosts[number].gate.try_enter()
        hosts[number].gate.cells[SERVICE_SECONDS] = 2.0
    assert {door.target.backend.id for door in first_group(hosts.doors(call("hello")))} == {1, 2}


def test_loads_are_learned_from_what_ollama_says_of_them_and_no_part_of_reading() -> None:
    hosts = Hosts(1, 1)
    hosts.learn(hosts[1], first=9.0, load=8.0)
    cells = hosts[1].gate.cells
    assert cells[LOAD_SECONDS] == 8.0
    assert cells[RESIDENCE] == Residence.LOADED
    told = why("m", hosts.route.doors, hosts.judge)
    assert told.policy == WARM
    assert "first token in 0.50 s" in told.choices[0].figures[0]
    cells[RESIDENCE] = Residence.AWAY
    assert "its model loaded in 8.0 s" in why("m", hosts.route.doors, hosts.judge).choices[0].figures[0]


def listing(*models: str) -> object:
    """Return how an Ollama behaves that has these models in memory."""

    async def behave(asked: Asked) -> None:
        if asked.path == "/api/ps":
            await asked.answer(200, json.dumps({"models": [{"name": name} for name in models]}).encode())
        elif asked.path == "/api/chat":
            await serve(asked)
        else:
            await asked.answer(200, b"{}")

    return behave


async def test_what_is_loaded_is_asked_beside_the_requests(bench: Bench) -> None:
    one, other = await bench.engine(listing("m:latest")), await bench.engine(listing("n:latest"))  # type: ignore[arg-type] # a behaviour
    silent = await bench.engine(missing_list)
    gates = Gates(Board(), queue_seconds=30, random=Random(1))  # noqa: S311 - repeatable, nothing secret
    rows = [row(number, engine.url) for number, engine in enumerate((one, other, silent), 1)]
    route = route_of(rows, model="m", ollama_url=OLLAMA, engines=ENGINES, gate=partial(gates.gate, known=True))
    client = UpstreamClient()
    try:
        asker = Asker(client, check_seconds=1.0, generate_seconds=1.0)
        async with Residents(gates, asker, lambda: gates, look_every=0.02):
            await until(lambda: all(len(engine.asked) > 1 for engine in (one, other, silent)))
    finally:
        await client.aclose()
    found = {door.target.backend.id: Residence(int(door.gate.cells[RESIDENCE])) for door in route.doors}
    assert found == {1: Residence.LOADED, 2: Residence.AWAY, 3: Residence.UNKNOWN}


async def missing_list(asked: Asked) -> None:
    """Behave as a server that knows nothing of loaded models."""
    await asked.answer(404, b"")


async def test_a_router_sends_prompts_where_the_model_is_loaded_if_that_is_wanted(bench: Bench) -> None:
    cold, warm = await bench.engine(listing()), await bench.engine(listing("m:latest"))  # type: ignore[arg-type] # a behaviour
    bench.registry.rows = [row(1, cold.url), row(2, warm.url)]
    settings = await bench.settings()
    settings = RouterSettings.model_validate(settings.model_dump() | {"router_host_policy": WARM})
    async with RouterServices(settings, periods=Periods()) as services:
        await until(lambda: services.configuration.snapshot.complete)
        services.dispatcher.follow()
        gates = list(services.gates)
        await until(lambda: all(gate.cells[RESIDENCE] for gate in gates), seconds=10.0)
        for _ in range(12):
            reply = await services.dispatcher.open(call("hello"))
            assert reply.target.backend.id == 2
            await relayed(reply)
        told = await services.dispatcher.why("m")
        assert told.policy == WARM
        assert warm.url in told.choices[0].order[0]


async def test_a_host_that_cannot_do_what_is_needed_is_not_even_compared(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[list[int]] = []
    order = Judge.order

    def watched(self: Judge, doors: list[Door], asked: Call) -> list[Door]:
        compared.append(sorted(door.target.backend.id or 0 for door in doors))
        return order(self, doors, asked)

    monkeypatch.setattr(Judge, "order", watched)
    engines = [await bench.engine(serve) for _ in range(3)]
    bench.registry.rows = [row(number, engine.url) for number, engine in enumerate(engines, 1)]
    bench.registry.rows[0] = row(1, engines[0].url, capabilities=Abilities(tools=False))
    settings = await bench.settings()
    settings = RouterSettings.model_validate(settings.model_dump() | {"router_host_policy": WARM})
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}], "tools": [tool]}
    async with RouterServices(settings) as services:
        await until(lambda: services.configuration.snapshot.complete)
        for asked in (Call(Dialect.OLLAMA, Operation.CHAT, json.dumps(body).encode()), call("hello")):
            await relayed(await services.dispatcher.open(asked))
    assert compared == [[2, 3], [1, 2, 3]]


@pytest.mark.engine
async def test_a_real_ollama_is_warm_while_it_holds_the_model_and_cold_once_that_is_unloaded(
    bench: Bench, ollama_server: EngineServer
) -> None:
    model = ollama_server.model
    other = await bench.engine(listing(f"{model}:latest"))  # type: ignore[arg-type] # a behaviour
    bench.registry.rows = [row(1, ollama_server.url, model=model), row(2, other.url, model=model)]
    settings = await bench.settings()
    settings = RouterSettings.model_validate(settings.model_dump() | {"router_host_policy": WARM})
    client = UpstreamClient()
    try:

        async def keep(seconds: int) -> None:
            """Have the engine load the model for so long, or unload it."""
            body = json.dumps({"model": model, "keep_alive": seconds}).encode()
            reply = await client.post(f"{ollama_server.url}/api/generate", body, within=60)
            assert reply.status == 200

        async with RouterServices(settings, periods=Periods()) as services:
            await until(lambda: services.configuration.snapshot.complete)
            services.dispatcher.follow()
            (gate,) = [gate for gate in services.gates if gate.endpoint_url == ollama_server.url]
            for seconds, wanted in ((600, Residence.LOADED), (0, Residence.AWAY)):
                await keep(seconds)
                await until(lambda wanted=wanted: gate.cells[RESIDENCE] == wanted, seconds=20.0)  # type: ignore[misc] # its own default
            reply = await services.dispatcher.open(call("hello", model=model))
            assert reply.target.backend.id == 2
            await relayed(reply)
            await keep(600)
    finally:
        await client.aclose()


def test_the_default_is_warm_where_no_share_is_promised() -> None:
    assert RouterSettings().router_host_policy == WARM_AMONG_EQUALS


@pytest.mark.parametrize(
    ("weights", "arms", "told"),
    [
        ((1, 1), ("", ""), WARM),
        ((3, 3, 0), ("", "", ""), WARM),
        ((9, 1), ("", ""), WEIGHTED),
        ((1, 1), ("", "quantised"), ARMS),
        ((1, 1, 1), ("", "canary", "canary"), ARMS),
    ],
)
def test_by_default_prompts_go_where_it_is_warm_unless_shares_were_promised(
    weights: tuple[int, ...], arms: tuple[str, ...], told: str
) -> None:
    hosts = Hosts(*weights, arms=arms, policy=WARM_AMONG_EQUALS)
    hosts[1].gate.cells[RESIDENCE] = Residence.AWAY
    assert why("m", hosts.route.doors, hosts.judge).policy == told
    for seed in range(200):
        order = hosts.route.order(Random(seed), f"caller {seed}")  # noqa: S311 - repeatable, nothing secret
        found = hosts.judge.order(list(order), call("hello"))
        if told == WARM:
            assert found[0] is hosts[2]
        else:
            assert found == order, "what the route comes to by itself"


async def test_only_engines_that_are_chosen_by_it_are_asked_what_they_hold(bench: Bench) -> None:
    pair = [await bench.engine(listing()), await bench.engine(listing("m:latest"))]  # type: ignore[arg-type] # a behaviour
    alone, uneven = await bench.engine(serve), [await bench.engine(serve) for _ in range(2)]
    bench.registry.rows = [row(number, engine.url) for number, engine in enumerate(pair, 1)]
    bench.registry.rows += [row(3, alone.url, model="alone")]
    bench.registry.rows += [
        row(number, engine.url, model="uneven", weight=number) for number, engine in enumerate(uneven, 4)
    ]
    async with RouterServices(await bench.settings(), periods=Periods()) as services:
        await until(lambda: services.configuration.snapshot.complete)
        services.dispatcher.follow()
        judged = services.dispatcher.judged()
        assert {gate.endpoint_url for gate in judged} == {engine.url for engine in pair}
        await until(lambda: all(gate.cells[RESIDENCE] for gate in judged), seconds=10.0)
        others = [gate for gate in services.gates if gate not in judged]
        assert len(others) == 3
        assert not any(gate.cells[RESIDENCE] for gate in others)
        reply = await services.dispatcher.open(call("hello"))
        assert reply.target.backend.id == 2
        await relayed(reply)
