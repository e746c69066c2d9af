"""Backends of one priority that are compared with each other: a caller stays with its arm, and figures are by arm."""

import asyncio
import json
from functools import partial
from random import Random
from typing import Any

import psycopg
import pytest

from athena.observability.router_metrics import OTHER_ARM, RouterMetrics
from athena.router.board import Board
from athena.router.call import Call
from athena.router.engines import ENGINES
from athena.router.gates import Gates
from athena.router.judging.arms import CANARY, MAIN, shares
from athena.router.routes import Route, first_group, route_of
from athena.router.services import RouterServices
from athena.router.types import Backend, Dialect, Operation
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import Asked, fail, serve, until
from tests.router.test_dispatch import relayed
from tests.router.test_with_admin_api import settings
from tests.support.admin import AdminApi

OLLAMA = "http://ollama.example.internal:11434"
CALLERS = [f"caller {number}" for number in range(2000)]


def route(*rows: Backend) -> Route:
    """Return the route of these rows."""
    gates = Gates(Board(), queue_seconds=30, random=Random(1))  # noqa: S311 - repeatable, nothing secret
    gate = partial(gates.gate, known=True)
    return route_of(list(rows), model="m", ollama_url=OLLAMA, engines=ENGINES, gate=gate)


def host(number: int, **more: Any) -> Backend:
    """Return a row of a host of its own."""
    return row(number, f"http://host{number}.example.internal", **more)


def first(found: Route, caller: str, seed: int = 1) -> int | None:
    """Return the backend that a caller comes to first."""
    return found.order(Random(seed), caller)[0].target.backend.id  # noqa: S311 - as above


def call(caller: str = "", prompt: str = "hello") -> Call:
    """Return a caller's prompt."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    found = Call(Dialect.OLLAMA, Operation.CHAT, json.dumps(body).encode())
    found.caller = caller
    return found


def test_shares_are_the_canary_s_and_of_the_rest_by_weight() -> None:
    assert shares({"b": 3, CANARY: 7, "a": 1}, 0.25) == ((CANARY, 0.25), ("a", 0.1875), ("b", 0.5625))
    assert shares({"a": 0, "b": 0}, 0.0) == (("a", 0.5), ("b", 0.5))
    assert shares({CANARY: 1}, 0.01) == ((CANARY, 1.0),)


def test_a_caller_always_comes_to_the_same_arm_and_arms_have_their_weights() -> None:
    found = route(host(1, weight=3), host(2, arm="new"))
    by_caller = {caller: first(found, caller) for caller in CALLERS}
    assert by_caller == {caller: first(found, caller, seed=2) for caller in CALLERS}
    assert sum(number == 2 for number in by_caller.values()) / len(CALLERS) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("share", [None, 0.0, 0.1, 0.5, 1.0])
def test_a_canary_has_the_share_that_the_registry_says(share: float | None) -> None:
    found = route(host(1), host(2, arm=CANARY, share=share, weight=1000))
    there = sum(first(found, caller) == 2 for caller in CALLERS)
    assert there / len(CALLERS) == pytest.approx(share or 0.0, abs=0.05)


def test_while_a_canary_grows_no_caller_leaves_it() -> None:
    before: set[str] = set()
    for share in (0.01, 0.02, 0.1, 0.5, 1.0):
        found = route(host(1), host(2, arm="other"), host(3, arm=CANARY, share=share))
        now = {caller for caller in CALLERS if first(found, caller) == 3}
        assert before <= now
        before = now


def test_within_an_arm_its_backends_share_by_weight() -> None:
    found = route(host(1), host(2, weight=0), host(3, arm="new"), host(4, arm="new"))
    caller = next(caller for caller in CALLERS if first(found, caller) in (3, 4))
    assert {first(found, caller, seed) for seed in range(50)} == {3, 4}


def test_a_request_waits_at_no_other_arm_but_goes_there_where_its_own_cannot_serve() -> None:
    found = route(host(1), host(2), host(3, arm=CANARY, share=0.0), host(4, priority=1))
    doors = found.order(Random(1), "somebody")  # noqa: S311 - as above
    assert {door.target.backend.id for door in first_group(doors)} == {1, 2}
    assert [door.target.backend.id for door in doors[2:]] == [3, 4]
    assert {door.target.backend.id: door.arm for door in doors} == {1: MAIN, 2: MAIN, 3: CANARY, 4: ""}


def test_alone_in_its_priority_an_arm_is_none() -> None:
    found = route(host(1, arm="new"), host(2, arm="new"), host(3, arm=CANARY, priority=1, share=0.0))
    assert {door.arm for door in found.doors} == {""}
    assert {first(found, "", seed) for seed in range(50)} == {1, 2}


async def test_figures_are_reported_and_shown_by_arm(bench: Bench) -> None:
    good, bad = await bench.engine(serve), await bench.engine(fail)
    services = await bench.router(row(1, good.url), row(2, bad.url, arm=CANARY, share=1.0))
    for number in range(3):
        reply = await services.dispatcher.open(call(f"caller {number}"))
        assert reply.target.backend.id == 1, "the canary fails, and the other one stands in"
        await relayed(reply)
    await services.figures.flush()
    found = {figure["backend_id"]: figure for batch in bench.api.batches for figure in batch["figures"]}
    assert found[1]["times"] == 3
    assert found[1]["squares"] > 0
    assert found[2]["errors"] == found[2]["requests"] > 0
    assert "times" not in found[2]
    shown = {series.labels: series.value for family in services.metrics.families for series in family.series()}
    assert shown["m", MAIN, "whole"] == 3
    assert shown["m", CANARY, "failed"] == found[2]["requests"]


async def test_figures_of_backends_that_are_not_compared_have_no_more_than_before(bench: Bench) -> None:
    engine = await bench.engine(serve)
    services = await bench.router(row(1, engine.url))
    await relayed(await services.dispatcher.open(call()))
    await services.figures.flush()
    ((figure,),) = [batch["figures"] for batch in bench.api.batches]
    assert figure.keys() <= {
        *("backend_id", "requests", "latency_ms_sum", "completion_tokens", "completion_seconds"),
    }


def test_arms_without_end_are_shown_as_one() -> None:
    metrics = RouterMetrics()
    for number in range(2000):
        metrics.arm_answered("m", f"arm{number}", 0.1)
        metrics.arm_failed("m", f"arm{number}")
    names = {series.labels for family in metrics.families for series in family.series() if "whole" in series.labels}
    assert len(names) == 257
    assert (OTHER_ARM, OTHER_ARM, "whole") in names


async def test_a_canary_grows_while_it_is_good_and_is_left_once_it_fails(bench: Bench, admin_api: AdminApi) -> None:
    broken = False

    async def steady(asked: Asked) -> None:
        await asyncio.sleep(0.05)  # beside which chance is small
        await serve(asked)

    async def canary(asked: Asked) -> None:
        await (fail if broken else steady)(asked)

    main, new = await bench.engine(steady), await bench.engine(canary)
    admin_api.add("m", endpoint_url=main.url, max_concurrency=16)
    number = admin_api.add("m", endpoint_url=new.url, max_concurrency=16, arm=CANARY)["id"]
    with psycopg.connect(admin_api.database_url) as connection:  # its first percents take thousands of requests
        change = "UPDATE llm_backends SET canary = jsonb_set(canary, '{share}', '0.25') WHERE id = %s"
        connection.execute(change, [number])

    def share() -> float:
        return float(admin_api.client.get(f"/api/llm-backends/{number}").json()["share"])

    numbers = iter(range(1_000_000))
    async with RouterServices(settings(admin_api, token=True)) as services:

        async def one() -> None:
            await relayed(await services.dispatcher.open(call(f"caller {next(numbers)}")))

        async def ask(rounds: int) -> None:
            """Have ten callers at once ask so many times, and wait until the router knows what follows from it."""
            for _ in range(rounds):
                await asyncio.gather(*(one() for _ in range(10)))
            assert await services.figures.flush()
            version = int(admin_api.client.get("/api/llm-backends").headers["x-registry-version"])
            await until(lambda: services.configuration.snapshot.version >= version, seconds=10)

        for _ in range(5):  # on a busy machine one may seem slower than the other for a while
            await ask(30)
            if share() != 0.25:
                break
        assert share() == 0.5
        broken = True
        await ask(6)
        assert share() == 0.0
        asked = len(new.asked)
        await ask(5)
        assert len(new.asked) == asked
    why = admin_api.client.get(f"/api/llm-backends/{number}/why").json()
    assert any(words.startswith("It is the canary and serves nobody") for words in why["words"])
    audit = [entry for entry in admin_api.client.get("/api/audit-log").json() if entry["action"] == "share"]
    assert [entry["after"]["share"] for entry in reversed(audit)] == [0.5, 0.0]
    assert {entry["actor"] for entry in audit} == {"rollout"}
