"""An engine that fails, hangs or cannot be reached leaves the route soon, costs little meanwhile, and comes back."""

import asyncio
import time
from collections import Counter

import httpx
import pytest

from tests.steadiness.world import Proxy, World, until
from tests.support.caller import OLLAMA_CHAT, OPENAI_CHAT, Answer, ask
from tests.support.faults.behaviours import BLACK_HOLE, REFUSE
from tests.support.faults.process import EngineProcess
from tests.support.faults.wire import reply_to
from tests.support.registry import backend

ENGINES = ("openai", "mlx", "ollama")
OUT_WITHIN = 10.0  # seconds
SILENT = ("frozen", BLACK_HOLE)  # not even a page is answered


class Traffic:
    """Callers who keep asking; nothing may be lost."""

    def __init__(self, proxy: Proxy, *, every: float = 0.05) -> None:
        self._proxy = proxy
        self._every = every
        self._asked: list[asyncio.Task[Answer]] = []
        self._task: asyncio.Task[None] | None = None
        self.seconds: list[float] = []
        self.backends: list[str] = []

    async def __aenter__(self) -> "Traffic":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
        await asyncio.gather(*self._asked)

    async def _run(self) -> None:
        for number in range(100_000):
            self._asked.append(asyncio.create_task(self._ask(number)))
            await asyncio.sleep(self._every)

    async def _ask(self, number: int) -> Answer:
        path = (OPENAI_CHAT, OLLAMA_CHAT)[number % 2]
        prompt = f"request {number}"
        began = time.monotonic()
        async with asyncio.timeout(20):
            answer = await ask(self._proxy.url, path, "m", prompt, stream=number % 4 < 2)
        self.seconds.append(time.monotonic() - began)
        self.backends.append(answer.backend)
        assert answer.complete, answer
        assert answer.text == "".join(reply_to(prompt))
        return answer


def two_engines(
    scene: World, kind: str, *, policy: str = "warm_among_equals", **more: object
) -> tuple[EngineProcess, EngineProcess, Proxy]:
    """Start a proxy with the same weight on two engines; returns the one that will fail, the other, and the proxy."""
    bad, good = scene.engine(http10=kind == "mlx"), scene.engine(http10=kind == "mlx")
    limits = {"timeout_seconds": 120, "max_concurrency": 50, **more}
    rows = (backend(1, "m", kind, bad.url, **limits), backend(2, "m", kind, good.url, **limits))
    proxy = scene.proxy(*rows, ROUTER_HOST_POLICY=policy)
    return bad, good, proxy


def state(proxy: Proxy) -> str:
    """Return the state of the first backend's breaker, as the metrics tell it."""
    states = [
        labels["state"] for labels, on in proxy.series("athena_backend_state") if labels["backend_id"] == "1" and on
    ]
    return states[0] if states else ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, kind) for mode in ("hang", "hang_after_head", "frozen") for kind in ENGINES),
        (BLACK_HOLE, "openai"),  # what is never reached has no type
    ],
)
async def test_an_engine_that_hangs_loses_nothing_costs_little_and_comes_back(
    scene: World, kind: str, mode: str
) -> None:
    """The limits of the backends are long ones: nobody set them with this in mind.

    An engine that answers nothing at all is found out at once. One whose pages say that it is well, but which generates
    nothing, is found out by a generation of the proxy's own.
    """
    bad, _, proxy = two_engines(scene, kind, policy="weighted")  # both get their share all the time
    async with Traffic(proxy) as traffic:
        await until(lambda: {"1", "2"} <= set(traffic.backends))
        if mode == "frozen":
            bad.freeze()
        else:
            bad.become(mode)
        began = time.monotonic()
        await until(lambda: state(proxy) == "open", OUT_WITHIN)
        await asyncio.sleep(max(0.0, 6 - (time.monotonic() - began)))
        asked = len(traffic.backends)
        if mode == "frozen":
            bad.thaw()
        else:
            bad.become("serve")
        await until(lambda: state(proxy) == "closed", 20)
        await until(lambda: "1" in traffic.backends[asked:], 5)
    assert max(traffic.seconds) < (2 if mode in SILENT else OUT_WITHIN), sorted(traffic.seconds)[-5:]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hang", "missing", REFUSE])
async def test_an_engine_that_nobody_asks_leaves_the_route_as_well(scene: World, mode: str) -> None:
    """It accepts connections, its health page says ok, but it generates nothing: only a generation shows that."""
    bad, _, proxy = two_engines(scene, "mlx", first_token_seconds=30)
    assert (await ask(proxy.url, OPENAI_CHAT, "m", "once")).complete
    await until(lambda: state(proxy) == "closed", 15)
    bad.become(mode)
    await until(lambda: state(proxy) == "open", OUT_WITHIN)
    answer = await ask(proxy.url, OPENAI_CHAT, "m", "now")
    assert answer.complete
    assert answer.backend == "2"
    bad.become("serve")
    await until(lambda: state(proxy) == "closed", 20)


@pytest.mark.parametrize("mode", [REFUSE, "fail", "reset", "nothing", "close"])
async def test_an_engine_that_fails_each_time_is_asked_no_more(scene: World, mode: str) -> None:
    bad, _, proxy = two_engines(scene, "openai")
    bad.become(mode)
    for number in range(40):
        answer = await ask(proxy.url, OPENAI_CHAT, "m", f"{number}", stream=number % 2 == 0)
        assert answer.complete
        assert answer.backend == "2"
    if mode != REFUSE:
        assert len(bad.report().prompts) <= 5
    assert state(proxy) in {"open", "half_open"}


async def test_a_black_holed_host_costs_one_connect_timeout_and_not_one_each(scene: World) -> None:
    _, good, proxy = two_engines(scene, "openai")
    bad = scene.engine(BLACK_HOLE)
    scene.registry.put(
        backend(3, "m", "openai", bad.url, priority=0, timeout_seconds=120),
        backend(4, "m", "openai", good.url, priority=1, timeout_seconds=120),
    )
    await until(lambda: proxy.metric("athena_configuration_version") == 3)
    took = []
    for number in range(30):
        began = time.monotonic()
        answer = await ask(proxy.url, OPENAI_CHAT, "m", f"{number}")
        took.append(time.monotonic() - began)
        assert answer.complete
    assert max(took) < 2.5
    assert sum(seconds > 0.5 for seconds in took) <= 2, took


async def test_the_breaker_shows_in_the_metrics_in_health_and_in_the_log(scene: World) -> None:
    bad, _, proxy = two_engines(scene, "openai", policy="weighted")
    for number in range(8):
        await ask(proxy.url, OPENAI_CHAT, "m", f"{number}")
    assert state(proxy) == "closed"
    bad.become("fail")
    for number in range(30):
        await ask(proxy.url, OPENAI_CHAT, "m", f"{number}")
    assert state(proxy) == "open"
    assert proxy.metric("athena_backend_trips_total", backend_id="1") == 1
    async with httpx.AsyncClient() as client:
        health = (await client.get(proxy.url + "/health")).text
    assert '"open"' in health
    assert bad.url in health
    opened = await asyncio.to_thread(proxy.server.told, "backend_breaker_opened")
    assert opened["endpoint"] == bad.url
    bad.become("serve")

    async def served() -> Counter[str]:
        answers = [await ask(proxy.url, OPENAI_CHAT, "m", f"{number}") for number in range(10)]
        return Counter(answer.backend for answer in answers)

    async with asyncio.timeout(20):
        while not (await served())["1"]:
            pass
    assert state(proxy) == "closed"
    assert (await asyncio.to_thread(proxy.server.told, "backend_breaker_closed"))["endpoint"] == bad.url


async def test_a_mistaken_caller_does_not_take_an_engine_out_of_the_route(scene: World) -> None:
    """What is refused as wrong says nothing of the engine."""
    bad, _, proxy = two_engines(scene, "openai")
    bad.become("reject")
    for number in range(20):
        assert (await ask(proxy.url, OPENAI_CHAT, "m", f"{number}")).status in {200, 400}
    assert state(proxy) == "closed"
