"""Every engine of a route asked by itself, so that a broken fallback is found before it is needed."""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from athena.errors import AthenaError
from athena.router.call import Call
from athena.router.errors import NeedWithoutHomeError, NoBackendError
from athena.router.policy import groups
from athena.router.services import RouterServices
from athena.router.types import (
    Backend,
    BackendType,
    Delta,
    Edition,
    Event,
    Finish,
    FinishReason,
    Message,
    Operation,
    Request,
    Sampling,
    Snapshot,
    Target,
)
from athena.settings import RouterSettings

AT_ONCE = 4  # engines that are asked at the same time; each is asked one question after the other
_NO_CHAT = "does not support chat"  # what an engine says of a model that only embeds
_PLACES = ("first", "second", "third", "fourth", "fifth")


class Candidate(msgspec.Struct, frozen=True):
    """One engine of a model's route, and when its turn comes; `fallback` is the default Ollama behind an `auto`."""

    model: str
    place: str
    target: Target


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. `timeout_seconds` bounds the whole answer; None: as the backend says."""

    text: str
    max_tokens: int
    timeout_seconds: int | None = None


class Verdict(msgspec.Struct, kw_only=True):
    """What became of the question at one engine. `error` is None where it generated, or gave a vector.

    `completion_tokens` is None where the engine wrote something but does not count, and of a model that only embeds,
    whose `answer` says how long its vector is.
    """

    model: str
    engine: BackendType
    endpoint_url: str
    place: str
    passed: bool = False
    answer: str = ""
    finish_reason: FinishReason | None = None
    completion_tokens: int | None = None
    tokens_per_second: float | None = None
    seconds: float = 0.0
    error: str | None = None


def candidates(model: str, backends: Sequence[Backend], *, ollama_url: str | None) -> list[Candidate]:
    """Return the engines of a model's enabled backends in the order in which they are tried, none twice.

    Backends of one priority share a place.
    """
    enabled = [backend for backend in backends if backend.enabled]
    if not enabled:
        return []
    found: dict[tuple[BackendType, str], Candidate] = {}
    for number, group in enumerate(groups(enabled, model=model, ollama_url=ollama_url)):
        place = _PLACES[number] if number < len(_PLACES) else f"number {number + 1}"
        for _, expanded in group:
            for position, target in enumerate(expanded):
                candidate = Candidate(model, "fallback" if position else place, target)
                found.setdefault((target.engine, target.endpoint_url), candidate)
    return list(found.values())


async def verify(settings: RouterSettings, engines: Sequence[Candidate], question: Question) -> list[Verdict]:
    """Ask each of these engines by itself; returns what became of it, in the same order."""
    # Nothing of it is anybody's traffic: it touches neither the registry's figures nor a state file.
    apart = settings.model_copy(update={"admin_api_token": None, "router_state_file": None})
    slots = asyncio.Semaphore(AT_ONCE)
    verdicts: dict[int, Verdict] = {}
    at_one_address: dict[str, list[int]] = {}
    for index, candidate in enumerate(engines):
        at_one_address.setdefault(candidate.target.endpoint_url, []).append(index)

    async def one_after_the_other(indices: Sequence[int]) -> None:
        for index in indices:
            async with slots:
                verdicts[index] = await _ask(apart, engines[index], question)

    async with asyncio.TaskGroup() as tasks:
        for indices in at_one_address.values():
            tasks.create_task(one_after_the_other(indices))
    return [verdicts[index] for index in range(len(engines))]


class _Only:
    """A registry that holds one backend."""

    whole_table = True

    def __init__(self, backend: Backend) -> None:
        self._route = (backend,)
        self._snapshot = Snapshot(version=1, routes={backend.model_name: self._route}, complete=True)

    async def load(self) -> Snapshot:
        return self._snapshot

    async def look_up(self, model: str) -> tuple[Backend, ...]:
        return self._snapshot.routes.get(model, ())

    async def changed(self, known: Edition, wait: float) -> Edition:
        if known == self._snapshot.edition:
            await asyncio.sleep(wait)
        return self._snapshot.edition


async def _ask(settings: RouterSettings, candidate: Candidate, question: Question) -> Verdict:
    target = candidate.target
    verdict = Verdict(
        model=candidate.model, engine=target.engine, endpoint_url=target.endpoint_url, place=candidate.place
    )
    asked = Request(
        operation=Operation.CHAT,
        model=candidate.model,
        messages=[Message(role="user", content=question.text)],
        sampling=Sampling(max_tokens=question.max_tokens),
    )
    began = time.monotonic()
    try:
        # A router that knows no other engine has none to move on to, which would hide the failure of this one.
        async with RouterServices(settings, source=_Only(_alone(target, question))) as services:
            try:
                await _answer(services, asked, verdict)
            except NeedWithoutHomeError as error:
                if _NO_CHAT not in error.detail.lower():
                    raise
                embedding = Request(operation=Operation.EMBED, model=candidate.model, inputs=[question.text])
                await _answer(services, embedding, verdict)
    except NoBackendError as error:
        verdict.error = error.attempts[-1][1] if error.attempts else error.detail
    except AthenaError as error:
        verdict.error = error.detail
    verdict.seconds = round(time.monotonic() - began, 3)
    return verdict


async def _answer(services: RouterServices, asked: Request, verdict: Verdict) -> None:
    reply = await services.dispatcher.open(Call.of(asked))
    try:
        events = [event async for event in reply.events()]
    finally:
        reply.close()
    if asked.operation is Operation.EMBED:
        _judge_vectors(verdict, events)
        return
    _judge(verdict, events)
    verdict.tokens_per_second = round(reply.tokens_per_second, 2) or None


def _alone(target: Target, question: Question) -> Backend:
    """Return the target as a backend of its own, with the limits and defaults that it has in its route."""
    backend = target.backend
    return msgspec.structs.replace(
        backend,
        id=None,
        backend_type=target.engine,
        endpoint_url=target.endpoint_url,
        timeout_seconds=question.timeout_seconds or backend.timeout_seconds,
    )


def _judge(verdict: Verdict, events: Sequence[Event]) -> None:
    """Put into the verdict what was written; it counts only if it was at least one token."""
    deltas = [event for event in events if isinstance(event, Delta)]
    finish = next((event for event in events if isinstance(event, Finish)), None)
    if finish is None:
        raise AssertionError("a reply that ends without its end mark has failed before")
    tokens = finish.usage.completion_tokens
    written = "".join(delta.text for delta in deltas) or "".join(delta.thinking for delta in deltas)
    verdict.answer = written
    verdict.finish_reason = finish.reason
    verdict.completion_tokens = tokens if tokens or not written else None
    verdict.passed = bool(tokens or written)
    if not verdict.passed:
        verdict.error = f"it answered without a single token (finish reason {finish.reason})"


def _judge_vectors(verdict: Verdict, events: Sequence[Event]) -> None:
    """Put into the verdict how long the vector is that a model gave; a reply without one has failed before."""
    vector, *_ = (vector for event in events if isinstance(event, Delta) for vector in event.vectors)
    verdict.passed = True
    verdict.answer = f"a vector of {len(vector)} numbers"
