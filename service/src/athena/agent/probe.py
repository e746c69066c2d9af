"""One probe of one engine: it is asked for a token, and its silence is weighed while it lasts."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NamedTuple

from athena.agent.configuration import EngineConfig
from athena.agent.host.figures import Host, ProcessFigures, model_in
from athena.agent.judging import Outcome, Result, Signs, is_worth_waiting, of_failure
from athena.router.errors import BackendError, FailureKind
from athena.router.probing import IN_MEMORY, ON_DISK, Asker, Loaded, Proof, find, keep_alive, proof
from athena.router.types import BackendType
from athena.router.upstream import Reply, UpstreamClient

LONGEST_CONNECT = 2.0  # seconds
_SHORTEST_LOOK = 1.0  # seconds over which processor time says something
_OVERLOADED = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)


class Answer(NamedTuple):
    """What the engine made of the question; `excusable` says that one with too much to do would have failed so too."""

    outcome: Outcome
    detail: str = ""
    excusable: bool = False


class Probe:
    """Asks one engine, over connections of its own. Made while an event loop runs; `aclose` ends it."""

    def __init__(self, engine: EngineConfig, host: Host, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._host = host
        self._clock = clock
        self._upstream = UpstreamClient(connect_seconds=min(LONGEST_CONNECT, engine.deadline_seconds))
        # The deadline is kept here, where silence is weighed.
        longest = engine.patience_seconds + engine.deadline_seconds
        self._asker = Asker(self._upstream, check_seconds=longest, generate_seconds=longest)
        self._listed_since: float | None = None
        self._proven_at: float | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._upstream.aclose()

    async def ask(
        self, process: ProcessFigures | None, *, unproven_since: float | None, waits: Callable[[Result], None]
    ) -> Result:
        """Return what one probe shows. `process` is the engine's, looked at just now.

        `unproven_since` is when the first of the probes began that have had no answer so far. `waits` is told each time
        that a deadline passes and the engine is seen to be at work: the probe then keeps its place in the queue.
        """
        begun = self._clock()
        since = begun if unproven_since is None else unproven_since
        if (other := self._wrong_model(process)) is not None:
            return Result(begun=begun, seconds=0.0, outcome=Outcome.WRONG_MODEL, detail=other)
        question = asyncio.create_task(self._question())
        try:
            looked_at = begun
            while not question.done():
                await asyncio.wait({question}, timeout=self._engine.deadline_seconds)
                if question.done():
                    break
                signs, process, looked_at = await self._look(process, looked_at)
                detail = f"no token within {self._engine.deadline_seconds:g} s; {told(signs)}"
                if not self._may_wait(signs, since):
                    return self._result(begun, self._silent(detail))
                waits(self._result(begun, Answer(Outcome.WAITING, detail)))
            answer = question.result()
            if answer.excusable:
                await asyncio.sleep(max(0.0, looked_at + _SHORTEST_LOOK - self._clock()))
                signs, _, _ = await self._look(process, looked_at)
                detail = f"{answer.detail}; {told(signs)}"
                answer = Answer(Outcome.WAITING if self._may_wait(signs, since) else answer.outcome, detail)
            return self._result(begun, answer)
        finally:
            question.cancel()
            await asyncio.gather(question, return_exceptions=True)

    def _wrong_model(self, process: ProcessFigures | None) -> str | None:
        """Return what is wrong with the model of an `mlx_lm.server`, which only its command line tells."""
        if self._engine.kind is not BackendType.MLX or process is None:
            return None
        served = model_in(process.arguments)
        if served is None or served.rstrip("/") == self._engine.model.rstrip("/"):
            return None
        return f"it was started with the model {served}"

    def _may_wait(self, signs: Signs, since: float) -> bool:
        return is_worth_waiting(signs, without_token=self._clock() - since, patience=self._engine.patience_seconds)

    def _silent(self, detail: str) -> Answer:
        """Return what silence means; that of a model of Ollama that may still be loading is nothing to worry about."""
        listed, proven = self._listed_since, self._proven_at
        if (
            listed is not None
            and (proven is None or proven < listed)
            and self._clock() - listed < self._engine.grace_seconds
        ):
            return Answer(Outcome.WAITING, f"{detail}; it may still be loading the model")
        return Answer(Outcome.SILENT, detail)

    def _result(self, begun: float, answer: Answer) -> Result:
        seconds = self._clock() - begun
        outcome = answer.outcome
        if outcome is Outcome.TOKEN:
            self._proven_at = self._clock()
            if seconds > self._engine.deadline_seconds:
                outcome = Outcome.LATE
        return Result(begun=begun, seconds=seconds, outcome=outcome, detail=answer.detail)

    async def _look(self, before: ProcessFigures | None, since: float) -> tuple[Signs, ProcessFigures | None, float]:
        """Return what shows whether the engine is at work, the process as it is now, and when that was."""
        process, gpu, connections = await asyncio.gather(
            self._process_now(before), self._host.gpu_percent(), self._host.connections(self._engine.port)
        )
        now = self._clock()
        cpu = None
        if before is not None and process is not None and now > since:
            cpu = max(0.0, process.cpu_seconds - before.cpu_seconds) / (now - since)
        others = None if connections is None else max(0, connections - len(self._upstream.connections))
        return Signs(cpu=cpu, gpu=gpu, others=others), process, now

    async def _process_now(self, before: ProcessFigures | None) -> ProcessFigures | None:
        return None if before is None else await self._host.process(before.pid)

    # The question

    async def _question(self) -> Answer:
        engine = self._engine
        try:
            loaded = None
            if engine.kind is BackendType.OLLAMA:
                found = await self._loaded()
                if isinstance(found, Answer):
                    return found
                loaded = found
            return self._answer(await self._asker.generate(engine.kind, engine.url, engine.model, loaded))
        except BackendError as error:
            return Answer(
                of_failure(error.kind), error.detail, excusable=error.kind in (FailureKind.TIMEOUT, FailureKind.RESET)
            )

    async def _loaded(self) -> Loaded | Answer:
        """Return the model as an Ollama holds it in memory; otherwise what that shows. A probe never loads a model."""
        engine = self._engine
        in_memory = await self._asker.models(engine.url + IN_MEMORY)
        if in_memory is None:
            return Answer(Outcome.FAILED, f"{IN_MEMORY} is not answered as an Ollama does")
        loaded = find(engine.model, in_memory)
        if loaded is not None:
            if self._listed_since is None:
                self._listed_since = self._clock()
            if loaded.expires_at is not None and keep_alive(loaded, datetime.now(UTC)) is None:
                return Answer(Outcome.ANSWERS, "the model is about to leave the memory")
            return loaded
        self._listed_since = None
        on_disk = await self._asker.models(engine.url + ON_DISK)
        if on_disk is not None and find(engine.model, on_disk) is None:
            return Answer(Outcome.WRONG_MODEL, f"it has no model {engine.model}")
        return Answer(Outcome.ANSWERS, "the model is not in memory, and a probe does not load it")

    def _answer(self, reply: Reply) -> Answer:
        engine = self._engine
        match proof(engine.kind, reply.status, reply.body):
            case Proof.GENERATES:
                return Answer(Outcome.TOKEN)
            case Proof.FAILS:
                return Answer(Outcome.FAILED, f"it answers {reply.status} without a whole reply")
        if reply.status in _OVERLOADED:
            return Answer(Outcome.OVERLOADED, f"it answers {reply.status}")
        if reply.status == HTTPStatus.NOT_FOUND:
            return Answer(Outcome.WRONG_MODEL, f"it has no model {engine.model}")
        return Answer(Outcome.ANSWERS, f"it answers {reply.status} to the question for a token")


def told(signs: Signs) -> str:
    """Return the signs as words for a person."""
    words = []
    if signs.cpu is not None:
        words.append(f"processor {signs.cpu:.0%}")
    if signs.gpu is not None:
        words.append(f"GPU {signs.gpu:.0f}%")
    if signs.others is not None:
        words.append(f"{signs.others} other connections")
    return ", ".join(words) or "nothing shows whether it is at work"
