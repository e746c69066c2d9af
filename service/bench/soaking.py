"""The proxy under load while the first choice of every route is killed and revived every second.

    service/bench/soak [--requests 100000] [--connections 48] [--workers 1] [--seed 1] [--compiled]

Two stand-in engines behind a real `athena serve proxy`: one that is killed with SIGKILL and started again all the time,
one that is steady. Half of the requests are streams; both dialects, five routes, several callers, one caller in a
hundred leaves. Every answer is compared with the right one to the last character, every request must be in the proxy's
figures, and at the end the proxy must hold no more connections and tasks than at the start. `--compiled`: the modules
that every request goes through are compiled first, which takes a minute. Exit code 0: all of it holds; 1: something
does not, and it is printed.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvloop

from bench.soak_checks import (
    EXAMPLES,
    GOOD,
    MODELS,
    SHAKY,
    STEADY,
    Ask,
    Books,
    State,
    Tally,
    Verdict,
    disagreements,
    judge,
    leaks,
    plan,
)
from tests.steadiness.world import Proxy, World, world
from tests.support.caller import Caller, question
from tests.support.compiled import compile_package
from tests.support.faults.process import EngineProcess
from tests.support.registry import backend

HANGS_AFTER = 20.0  # seconds; no right answer takes 2
LIFE, DEATH = 0.8, 0.2  # seconds that the shaky engine is up, and down
SETTLES_WITHIN = 10.0
CALLERS = 6


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a soak."""

    requests: int = 100_000
    connections: int = 48
    workers: int = 1
    seed: int = 1
    compiled: bool = False


class Result(msgspec.Struct, kw_only=True):
    """What a soak found. `faults` is empty if everything holds."""

    options: Options
    tally: Tally
    books: Books
    before: State
    loaded: State
    after: State
    seconds: float
    cpu_seconds: float
    kills: int
    first_choice: int
    faults: list[str]

    def table(self) -> str:
        """Return the figures for people."""
        tally, took = self.tally, sorted(self.tally.seconds)
        rows = [
            ("requests", f"{tally.sent:,} in {self.seconds:.0f} s, {tally.sent / self.seconds:,.0f} a second"),
            *((verdict, f"{tally.verdicts[verdict]:,}") for verdict in Verdict),
            ("engine killed and revived", f"{self.kills} times"),
            ("answered by the first choice", f"{self.first_choice / max(1, len(took)):.1%}"),
            (
                "seconds to a right answer",
                f"p50 {_at(took, 0.5):.3f}, p99 {_at(took, 0.99):.3f}, longest {took[-1]:.3f}",
            ),
            ("proxy's CPU time a request", f"{self.cpu_seconds / tally.sent * 1e6:.0f} µs"),
            ("memory", _change(self.before, self.loaded, lambda state: f"{state.resident / 1e6:.1f} MB")),
            ("files and connections", f"{self.before.descriptors} at the start, {self.after.descriptors} at the end"),
            ("tasks", f"{self.before.tasks} at the start, {self.after.tasks} at the end"),
            ("not accounted for, leaked or wrong", "\n".join(self.faults) or "nothing"),
        ]
        return "\n".join(f"{name:<36}{value}" for name, value in rows)


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


def _change(before: State, after: State, show: Any) -> str:
    return f"{show(before)} at the start, {show(after)} under the last load"


def routes(shaky: EngineProcess, steady: EngineProcess) -> Iterator[dict[str, Any]]:
    """Yield the registry's rows: odd ids are on the shaky engine, even ones on the steady one."""
    number = 0
    for model, kinds in MODELS.items():
        for priority, (kind, engine) in enumerate(zip(kinds, (shaky, steady), strict=True)):
            number += 1
            url = engine.another_url(http10=kind == "mlx")
            limits = {"max_concurrency": 1000, "max_queue": 1000, "timeout_seconds": 10}
            yield backend(number, model, kind, url, priority=(SHAKY, STEADY)[priority], **limits)


class Soak:
    """One run."""

    def __init__(self, options: Options, own: World) -> None:
        self._options = options
        self._shaky, self._steady = own.engine(), own.engine()
        own.arguments = ["--workers", str(options.workers)] if options.workers > 1 else []
        settings = {"ROUTER_STATE_FILE": str(own.folder / "state.json")}
        if options.compiled:
            settings["PYTHONPATH"] = str(compile_package(own.folder / "compiled"))
        self._proxy = own.proxy(*routes(self._shaky, self._steady), **settings)
        self._registry = own.registry
        self._tally = Tally()
        self._numbers = iter(range(options.requests))
        self._kills = 0
        compiled = str(own.folder / "compiled")
        parent, *workers = self._proxy.processes()
        self._compiled = all(compiled in (folder / "maps").read_text() for folder in workers or [parent])

    async def run(self) -> Result:
        """Send everything, then look at what is left."""
        proxy = self._proxy
        before = state_of(proxy)
        cpu, began = proxy.cpu_seconds(), time.monotonic()
        async with self._shaking():
            await asyncio.gather(*(self._call(lane) for lane in range(self._options.connections)))
        seconds, cpu = time.monotonic() - began, proxy.cpu_seconds() - cpu
        loaded = state_of(proxy)
        # Without neighbours no connection to them is kept.
        self._shaky.kill()
        self._steady.kill()
        self._registry.stop()
        after = await _settled(proxy, before)
        requests = proxy.metrics("gen_ai_server_request_duration_seconds_count", "error_type")
        self._registry.start()
        status = await asyncio.to_thread(proxy.server.stop)
        books = Books(
            requests=requests,
            figures=self._registry.figures(),
            attempts=len(proxy.server.events("routing_llm_request")),
            completed=len(proxy.server.events("llm_request_completed")),
        )
        tally = self._tally
        counts = {verdict: tally.verdicts[verdict] for verdict in Verdict if verdict not in GOOD}
        bad = [f"{count} {verdict}" for verdict, count in counts.items() if count]
        if status != 0:
            bad.append(f"the proxy ended with status {status}")
        if self._options.compiled and not self._compiled:
            bad.append("the proxy has not run the compiled modules")
        bad += proxy.server.complaints()[:EXAMPLES]
        return Result(
            options=self._options,
            tally=tally,
            books=books,
            before=before,
            loaded=loaded,
            after=after,
            seconds=seconds,
            cpu_seconds=cpu,
            kills=self._kills,
            first_choice=sum(count for number, count in tally.right.items() if int(number) % 2),
            faults=[*bad, *tally.examples, *disagreements(tally, books), *leaks(before, after)],
        )

    async def _call(self, lane: int) -> None:
        """Be one connection: ask one thing after the other."""
        async with Caller(self._proxy.url, source=f"127.0.0.{2 + lane % CALLERS}") as caller:
            for number in self._numbers:
                ask = plan(number, self._options.seed)
                began = time.monotonic()
                answer, trouble = None, ""
                try:
                    async with asyncio.timeout(HANGS_AFTER):
                        if ask.leaves:
                            verdict = await _leave(caller, ask)
                        else:
                            answer = await caller.ask(ask.path, ask.model, ask.prompt, stream=ask.stream)
                            verdict = judge(ask, answer)
                except TimeoutError:
                    verdict = Verdict.HUNG
                    caller.leave()
                except (OSError, asyncio.IncompleteReadError) as error:
                    verdict, trouble = Verdict.WRONG, repr(error)  # not even the head of an answer
                    caller.leave()
                self._tally.add(ask, verdict, answer, time.monotonic() - began, trouble)

    @asynccontextmanager
    async def _shaking(self) -> Any:
        """Kill and revive the shaky engine for as long as the context is entered."""
        over = asyncio.Event()
        task = asyncio.create_task(self._shake(over))
        try:
            yield
        finally:
            over.set()
            await task

    async def _shake(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await asyncio.sleep(LIFE)
            self._shaky.kill()
            self._kills += 1
            await asyncio.sleep(DEATH)
            await asyncio.to_thread(self._shaky.start)


async def _leave(caller: Caller, ask: Ask) -> Verdict:
    """Take in the beginning of a stream and go."""
    reader = await caller.send(ask.path, question(ask.path, ask.model, ask.prompt, stream=True))
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        caller.leave()
        return Verdict.REFUSED
    await reader.readuntil(b"\r\n")
    caller.leave()
    return Verdict.LEFT


def state_of(proxy: Proxy) -> State:
    """Return what a proxy holds now."""
    metrics = httpx.get(proxy.url + "/metrics").text
    return State(
        descriptors=proxy.descriptors(),
        tasks=proxy.metric("athena_event_loop_tasks") if "athena_event_loop_tasks" in metrics else None,
        resident=proxy.resident(),
        active=proxy.metric("http_server_active_requests"),
    )


async def _settled(proxy: Proxy, before: State) -> State:
    """Return what the proxy holds once it holds no more than before, or after a while."""
    deadline = time.monotonic() + SETTLES_WITHIN
    while True:
        after = state_of(proxy)
        if not leaks(before, after) or time.monotonic() > deadline:
            return after
        await asyncio.sleep(0.2)


async def soak(options: Options, folder: Path) -> Result:
    """Run a soak with its logs in a folder."""
    with world(folder) as own:
        return await Soak(options, own).run()


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in msgspec.structs.asdict(Options()).items():
        if value is False:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=int, default=value)
    options = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="athena-soak-") as folder:
        result = uvloop.run(soak(options, Path(folder)))
    print(result.table())
    sys.exit(1 if result.faults else 0)


if __name__ == "__main__":
    main()
