"""One probe of one engine: what it asks, and what it makes of answers and of silence."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from athena.agent.configuration import EngineConfig
from athena.agent.host.figures import HostFigures, ProcessFigures
from athena.agent.judging import Outcome, Result
from athena.agent.probe import Probe
from tests.router import standin
from tests.router.standin import Asked, Behaviour, StandIn


class FixedHost:
    """A host on which the engine's process uses `cpu` of the processor, and `others` are connected besides."""

    def __init__(self, *, cpu: float | None = 0.0, gpu: float | None = None, others: int | None = None) -> None:
        self.cpu = cpu
        self.gpu = gpu
        self.others = others

    async def figures(self) -> HostFigures:
        """Return none."""
        return HostFigures()

    async def process(self, pid: int) -> ProcessFigures | None:
        """Return the engine's process."""
        if self.cpu is None:
            return None
        now = asyncio.get_running_loop().time()
        return ProcessFigures(pid=pid, resident=1, cpu_seconds=now * self.cpu, age=1000.0)

    async def connections(self, port: int) -> int | None:
        """Return the connections to the engine, the probe's own included."""
        return None if self.others is None else self.others + 1

    async def gpu_percent(self) -> float | None:
        """Return how much of the GPU is in use."""
        return self.gpu


@asynccontextmanager
async def probing(
    behaviour: Behaviour, host: FixedHost | None = None, *, kind: str = "openai", **fields: Any
) -> AsyncIterator[tuple[Probe, StandIn]]:
    """Make a probe of a stand-in engine."""
    async with StandIn(behaviour) as engine:
        fields = {"deadline_seconds": 0.2, "patience_seconds": 30.0, **fields}
        config = EngineConfig.model_validate({"name": "a", "kind": kind, "url": engine.url, "model": "m", **fields})
        probe = Probe(config, host or FixedHost())
        try:
            yield probe, engine
        finally:
            await probe.aclose()


async def ask(probe: Probe, host: FixedHost | None = None, since: float | None = None) -> tuple[Result, list[Result]]:
    """Ask, and return what came of it and what was told while it waited."""
    waited: list[Result] = []
    process = await (host or FixedHost()).process(7)
    return await probe.ask(process, unproven_since=since, waits=waited.append), waited


PATIENT: dict[str, Any] = {"deadline_seconds": 60.0, "patience_seconds": 60.0}


@pytest.mark.parametrize(
    ("kind", "behaviour", "outcome"),
    [
        ("openai", standin.serve, "token"),
        ("mlx", standin.serve_like_mlx, "token"),
        ("mlx", standin.missing, "failed"),  # its generation has ended
        ("openai", standin.missing, "wrong_model"),
        ("openai", standin.busy, "overloaded"),
        ("openai", standin.reject, "answers"),
        ("openai", standin.fail, "failed"),
        ("openai", standin.empty_body, "failed"),
        ("openai", standin.close_before_answer, "failed"),
        ("openai", standin.reset_before_answer, "failed"),
        ("openai", standin.gibberish, "failed"),
        ("mlx", standin.close_after_first_token, "failed"),
    ],
)
async def test_each_answer_has_its_meaning(kind: str, behaviour: Behaviour, outcome: str) -> None:
    async with probing(behaviour, kind=kind, **PATIENT) as (probe, _):
        result, waited = await ask(probe)
    assert (result.outcome, waited) == (outcome, [])


async def test_an_engine_that_is_not_there_refuses() -> None:
    async with probing(standin.serve, **PATIENT) as (probe, engine):
        await engine.stop()
        result, _ = await ask(probe)
    assert result.outcome is Outcome.REFUSED


@pytest.mark.parametrize("behaviour", [standin.hang, standin.hang_before_first_token])
async def test_silence_of_an_engine_that_does_nothing_counts_though_others_wait_as_well(behaviour: Behaviour) -> None:
    host = FixedHost(cpu=0.0, others=5)
    async with probing(behaviour, host, kind="mlx") as (probe, engine):
        result, waited = await ask(probe, host)
        assert (result.outcome, waited) == (Outcome.SILENT, [])
        assert "processor 0%" in result.detail
        assert "5 other connections" in result.detail
        await standin.until(lambda: engine.asked[0].left_at is not None, 60.0)  # nobody keeps it from the others


async def test_a_probe_keeps_its_place_behind_others_and_is_late() -> None:
    waiting = asyncio.Event()

    async def when_the_others_are_done(asked: Asked) -> None:
        await waiting.wait()
        await standin.serve(asked)

    host = FixedHost(cpu=1.0)
    async with probing(when_the_others_are_done, host) as (probe, engine):
        waited: list[Result] = []

        def note(result: Result) -> None:
            waited.append(result)
            if len(waited) == 3:
                waiting.set()

        result = await probe.ask(await host.process(7), unproven_since=None, waits=note)
        assert result.outcome is Outcome.LATE
        assert [one.outcome for one in waited[:3]] == [Outcome.WAITING] * 3
        assert len(engine.asked) == 1


async def test_patience_counts_from_the_first_probe_without_an_answer() -> None:
    host = FixedHost(cpu=1.0)
    async with probing(standin.hang, host) as (probe, _):
        since = asyncio.get_running_loop().time() - 31.0
        result, waited = await ask(probe, host, since)
    assert (result.outcome, waited) == (Outcome.SILENT, [])


@pytest.mark.parametrize(("others", "outcome"), [(0, "silent"), (3, "waiting")])
async def test_where_no_process_is_known_the_others_who_wait_speak_for_the_engine(others: int, outcome: str) -> None:
    host = FixedHost(cpu=None, others=others)
    async with probing(standin.hang, host) as (probe, _):
        told: asyncio.Queue[Result] = asyncio.Queue()
        asking = asyncio.create_task(probe.ask(None, unproven_since=None, waits=told.put_nowait))
        hearing = asyncio.create_task(told.get())
        await asyncio.wait({asking, hearing}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        result = hearing.result() if hearing.done() else asking.result()
        for task in (asking, hearing):
            task.cancel()
        await asyncio.gather(asking, hearing, return_exceptions=True)
    assert result.outcome == outcome


async def test_a_connection_that_breaks_off_is_excused_while_the_engine_is_at_work() -> None:
    host = FixedHost(cpu=1.0)
    async with probing(standin.reset_before_answer, host, **PATIENT) as (probe, _):
        result, _ = await ask(probe, host)
    assert result.outcome is Outcome.WAITING


async def test_mlx_that_was_started_with_another_model_is_not_even_asked() -> None:
    process = ProcessFigures(pid=7, resident=1, cpu_seconds=1.0, age=9.0, arguments=("mlx_lm.server", "--model", "n"))
    async with probing(standin.serve_like_mlx, kind="mlx") as (probe, engine):
        result = await probe.ask(process, unproven_since=None, waits=lambda _: None)
        assert (result.outcome, engine.asked) == (Outcome.WRONG_MODEL, [])


class Ollama:
    """An Ollama that holds `loaded` in memory and `pulled` on disk."""

    def __init__(self, *, loaded: tuple[str, ...] = (), pulled: tuple[str, ...] = (), ends_in: float = 300.0) -> None:
        self.prompts = Behaviours()
        self.loaded = loaded
        self.pulled = pulled
        self.ends = datetime.now(UTC) + timedelta(seconds=ends_in)

    async def __call__(self, asked: Asked) -> None:
        """Answer a list, or a prompt."""
        if asked.method == "POST":
            await self.prompts.behaviour(asked)
            return
        names = self.loaded if asked.path == "/api/ps" else self.pulled
        models = [{"name": name, "expires_at": self.ends.isoformat(), "context_length": 4096} for name in names]
        await asked.answer(200, json.dumps({"models": models}).encode())


class Behaviours:
    """How prompts are met."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = standin.serve


@pytest.mark.parametrize(
    ("ollama", "outcome", "prompts"),
    [
        (Ollama(loaded=("m:latest",), pulled=("m:latest",)), "token", 1),
        (Ollama(loaded=("n:latest",), pulled=("m:latest", "n:latest")), "answers", 0),  # a probe loads nothing
        (Ollama(loaded=("m:latest",), pulled=("m:latest",), ends_in=0.5), "answers", 0),  # it is about to go
        (Ollama(loaded=(), pulled=("n:latest",)), "wrong_model", 0),
    ],
)
async def test_ollama_is_asked_only_for_a_model_that_it_holds(ollama: Ollama, outcome: str, prompts: int) -> None:
    async with probing(ollama, kind="ollama", **PATIENT) as (probe, engine):
        result, _ = await ask(probe)
        assert result.outcome == outcome
        assert sum(asked.method == "POST" for asked in engine.asked) == prompts


async def test_an_ollama_that_does_not_even_list_its_models_is_silent() -> None:
    async with probing(standin.hang, kind="ollama") as (probe, _):
        result, _ = await ask(probe)
    assert result.outcome is Outcome.SILENT


async def test_a_model_of_ollama_that_may_still_be_loading_does_not_count_as_silent() -> None:
    ollama = Ollama(loaded=("m:latest",))
    ollama.prompts.behaviour = standin.hang
    async with probing(ollama, kind="ollama", grace_seconds=600) as (probe, _):
        result, _ = await ask(probe)
        assert result.outcome is Outcome.WAITING
        assert "loading" in result.detail
        ollama.prompts.behaviour = standin.serve
        result, _ = await ask(probe)
        while result.outcome not in (Outcome.TOKEN, Outcome.LATE):  # this machine was busy
            result, _ = await ask(probe)
        ollama.prompts.behaviour = standin.hang
        result, _ = await ask(probe)
        assert result.outcome is Outcome.SILENT
