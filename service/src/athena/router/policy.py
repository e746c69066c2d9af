"""The router's decisions: pure functions of what is known, with no I/O and no clock."""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from itertools import groupby
from operator import itemgetter
from random import Random
from typing import TypeVar

import msgspec

from athena.errors import AthenaError
from athena.router.errors import (
    BackendError,
    FailureKind,
    ModelNotFoundError,
    NeedWithoutHomeError,
    NoBackendError,
)
from athena.router.types import Backend, BackendType, Target, Usage

# How long until a backend that failed in this way may serve again, in seconds.
_RETRY_AFTER = {
    FailureKind.STATUS: 2.0,
    FailureKind.RESET: 2.0,
    FailureKind.EMPTY: 2.0,
    FailureKind.OPEN: 1.0,
    FailureKind.MALFORMED: 5.0,
    FailureKind.REFUSED: 5.0,
    FailureKind.TIMEOUT: 10.0,
}
# How many requests an engine serves at once unless its backend says otherwise.
_CONCURRENCY = {BackendType.MLX: 8, BackendType.OPENAI: 256}
_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_QUEUE_PER_SLOT, _QUEUE_AT_LEAST = 4, 64
_SHORTEST_MEASURE = 0.001  # seconds; a shorter time between the first and the last token measures nothing


T = TypeVar("T")
_first = itemgetter(0)


class Failure(msgspec.Struct, frozen=True):
    """A target that was tried, and how it failed."""

    target: Target
    error: BackendError

    def describe(self) -> tuple[str, str]:
        """Return the engine with its address, and what went wrong."""
        return f"{self.target.engine} at {self.target.endpoint_url}", f"{self.error.kind}: {self.error.detail}"


def concurrency(backend: Backend, engine: BackendType, *, ollama: int = 1) -> int:
    """Return how many requests an engine is given at once; an Ollama of which its backend says nothing, `ollama`.

    What an `auto` backend says of itself is meant for its MLX, not for the default Ollama behind it.
    """
    own = backend.backend_type is not BackendType.AUTO or engine is BackendType.MLX
    if own and backend.max_concurrency is not None:
        return backend.max_concurrency
    return ollama if engine is BackendType.OLLAMA else _CONCURRENCY[engine]


def queue_length(backend: Backend, limit: int) -> int:
    """Return how many may wait for an engine that serves `limit` at once."""
    return backend.max_queue if backend.max_queue is not None else _QUEUE_PER_SLOT * limit + _QUEUE_AT_LEAST


def targets(backends: Sequence[Backend], *, model: str, ollama_url: str | None, random: Random) -> tuple[Target, ...]:
    """Return the engines to try for a model, in order; never one twice.

    The enabled backends by priority, those of one priority in a random order in which each comes first as often as its
    weight says; weight 0 last. An `auto` backend is MLX at its endpoint and then the default Ollama. A model without an
    enabled backend has the default Ollama, or nothing where there is none (`ollama_url` is None).
    """
    found: dict[tuple[BackendType, str], Target] = {}
    for group in groups(backends, model=model, ollama_url=ollama_url):
        for expanded in shuffled(group, random):
            for target in expanded:
                found.setdefault((target.engine, target.endpoint_url), target)
    return tuple(found.values())


def shuffled(weighted: Sequence[tuple[int, T]], random: Random) -> list[T]:
    """Return the members of a group in a random order in which each comes first as often as its weight says."""
    # Drawing without replacement in proportion to weights is the same as sorting by random() ** (1 / weight).
    keyed = [(random.random() ** (1 / weight) if weight else -1.0, member) for weight, member in weighted]
    keyed.sort(key=_first, reverse=True)
    return [member for _, member in keyed]


def groups(backends: Sequence[Backend], *, model: str, ollama_url: str | None) -> list[list[tuple[int, list[Target]]]]:
    """Return what `targets` chooses from: for each priority the backends' weights and engines."""
    enabled = [backend for backend in backends if backend.enabled]
    if not enabled and ollama_url is not None:
        enabled = [Backend(model_name=model, backend_type=BackendType.OLLAMA, endpoint_url=ollama_url)]
    enabled.sort(key=lambda backend: backend.priority)
    return [
        [(backend.weight, list(_expand(backend, ollama_url))) for backend in group]
        for _, group in groupby(enabled, lambda backend: backend.priority)
    ]


def _expand(backend: Backend, ollama_url: str | None) -> Iterator[Target]:
    if backend.backend_type is not BackendType.AUTO:
        yield Target(backend=backend, engine=backend.backend_type, endpoint_url=backend.endpoint_url)
        return
    yield Target(backend=backend, engine=BackendType.MLX, endpoint_url=backend.endpoint_url)
    if ollama_url is not None:
        yield Target(backend=backend, engine=BackendType.OLLAMA, endpoint_url=ollama_url)


def falls_back(failed: Target, following: Target | None) -> bool:
    """Whether an `auto` backend goes from its MLX to the default Ollama here."""
    return following is not None and failed.backend is following.backend and failed.engine is BackendType.MLX


def blames_engine(engine: BackendType, error: BackendError) -> bool:
    """Whether a failure says that the engine is not in order.

    Too much to do (429, 503) is no disorder, nor is a model that it lacks. mlx_lm.server answers 404 for whatever goes
    wrong, and never says that it is busy.
    """
    if error.upstream_status == HTTPStatus.NOT_FOUND:
        return engine is BackendType.MLX
    return error.upstream_status not in _BUSY or engine is BackendType.MLX


def verdict(model: str, failures: Sequence[Failure], *, retry_in: float | None = None) -> AthenaError:
    """Return what to tell a caller for whom every target failed.

    `retry_in` says when the first of those that were not even tried may serve again, in seconds.
    """
    attempts = tuple(failure.describe() for failure in failures)
    said = "; ".join(f"{where}: {what}" for where, what in attempts)
    kinds = {failure.error.kind for failure in failures}
    if kinds == {FailureKind.UNSUITABLE}:
        field = next((failure.error.field for failure in failures if failure.error.field), None)
        return NeedWithoutHomeError(f"No backend of model {model} can serve this request. {said}", field=field)
    if all(_lacks_model(failure) for failure in failures):
        return ModelNotFoundError(f"No backend has a model {model}. {said}", attempts=attempts)
    waits = [_RETRY_AFTER[kind] for kind in kinds if kind in _RETRY_AFTER and kind is not FailureKind.OPEN]
    if retry_in is not None:
        waits.append(max(retry_in, _RETRY_AFTER[FailureKind.OPEN]))
    retry_after = min(waits, default=_RETRY_AFTER[FailureKind.OPEN])
    return NoBackendError(f"No backend of model {model} answered. {said}", attempts=attempts, retry_after=retry_after)


def nowhere(model: str, *, registry_says: bool) -> NoBackendError:
    """Return what to tell a caller whose model has no engine at all; `registry_says` that it is not merely unread."""
    if registry_says:
        return ModelNotFoundError(f"model '{model}' not found", attempts=())
    return NoBackendError(
        f"The registry does not say whether there is a model {model}: the Admin API is out of reach.",
        attempts=(),
        retry_after=_RETRY_AFTER[FailureKind.REFUSED],
    )


def _lacks_model(failure: Failure) -> bool:
    # mlx_lm.server answers 404 for whatever goes wrong.
    return failure.error.upstream_status == HTTPStatus.NOT_FOUND and failure.target.engine is not BackendType.MLX


def speed(usage: Usage, *, seconds: float, after_first_token: float | None) -> tuple[int, float]:
    """Return how many tokens were written in how many seconds, as well as it is known.

    The engine's own measure if it has one; otherwise the tokens after the first over the time since it; otherwise all
    over the whole reply.
    """
    if usage.completion_seconds is not None:
        return usage.completion_tokens, usage.completion_seconds
    if after_first_token is not None and usage.completion_tokens > 1 and after_first_token >= _SHORTEST_MEASURE:
        return usage.completion_tokens - 1, after_first_token
    return usage.completion_tokens, seconds
