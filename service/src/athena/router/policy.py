"""The router's decisions: pure functions of what is known, with no I/O and no clock."""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from itertools import groupby
from random import Random

import msgspec

from athena.errors import AthenaError
from athena.router.errors import (
    BackendError,
    FailureKind,
    ModelNotFoundError,
    NoBackendError,
    RequestRejectedError,
)
from athena.router.types import Backend, BackendType, Target, Usage

# How long until a backend that failed in this way may serve again, in seconds.
_RETRY_AFTER = {
    FailureKind.STATUS: 2.0,
    FailureKind.RESET: 2.0,
    FailureKind.EMPTY: 2.0,
    FailureKind.MALFORMED: 5.0,
    FailureKind.REFUSED: 5.0,
    FailureKind.TIMEOUT: 10.0,
}
_SHORTEST_MEASURE = 0.001  # seconds; a shorter time between the first and the last token measures nothing


class Failure(msgspec.Struct, frozen=True):
    """A target that was tried, and how it failed."""

    target: Target
    error: BackendError

    def describe(self) -> tuple[str, str]:
        """Return the engine with its address, and what went wrong."""
        return f"{self.target.engine} at {self.target.endpoint_url}", f"{self.error.kind}: {self.error.detail}"


def targets(backends: Sequence[Backend], *, model: str, ollama_url: str, random: Random) -> tuple[Target, ...]:
    """Return the engines to try for a model, in order; never empty, never one twice.

    The enabled backends by priority, those of one priority in a random order in which each comes first as often as its
    weight says; weight 0 last. An `auto` backend is MLX at its endpoint and then the default Ollama. A model without an
    enabled backend has the default Ollama.
    """
    enabled = [backend for backend in backends if backend.enabled]
    if not enabled:
        enabled = [Backend(model_name=model, backend_type=BackendType.OLLAMA, endpoint_url=ollama_url)]
    elif len(enabled) > 1:
        enabled = _ordered(enabled, random)
    if len(enabled) == 1 and enabled[0].backend_type is not BackendType.AUTO:
        return tuple(_expand(enabled[0], ollama_url))
    found: dict[tuple[BackendType, str], Target] = {}
    for backend in enabled:
        for target in _expand(backend, ollama_url):
            found.setdefault((target.engine, target.endpoint_url), target)
    return tuple(found.values())


def _ordered(backends: Sequence[Backend], random: Random) -> list[Backend]:
    ordered: list[Backend] = []
    for _, group in groupby(sorted(backends, key=lambda backend: backend.priority), lambda backend: backend.priority):
        # Drawing without replacement in proportion to weights is the same as sorting by random() ** (1 / weight).
        keyed = [(random.random() ** (1 / backend.weight) if backend.weight else -1.0, backend) for backend in group]
        keyed.sort(key=lambda pair: pair[0], reverse=True)
        ordered += [backend for _, backend in keyed]
    return ordered


def _expand(backend: Backend, ollama_url: str) -> Iterator[Target]:
    if backend.backend_type is not BackendType.AUTO:
        yield Target(backend=backend, engine=backend.backend_type, endpoint_url=backend.endpoint_url)
        return
    yield Target(backend=backend, engine=BackendType.MLX, endpoint_url=backend.endpoint_url)
    yield Target(backend=backend, engine=BackendType.OLLAMA, endpoint_url=ollama_url)


def falls_back(failed: Target, following: Target | None) -> bool:
    """Whether an `auto` backend goes from its MLX to the default Ollama here."""
    return following is not None and failed.backend is following.backend


def verdict(model: str, failures: Sequence[Failure]) -> AthenaError:
    """Return what to tell a caller for whom every target failed."""
    attempts = tuple(failure.describe() for failure in failures)
    said = "; ".join(f"{where}: {what}" for where, what in attempts)
    kinds = {failure.error.kind for failure in failures}
    if kinds == {FailureKind.UNSUITABLE}:
        return RequestRejectedError(f"No backend of model {model} can serve this request. {said}")
    if all(_lacks_model(failure) for failure in failures):
        return ModelNotFoundError(f"No backend has a model {model}. {said}", attempts=attempts)
    retry_after = min(_RETRY_AFTER[kind] for kind in kinds if kind in _RETRY_AFTER)
    return NoBackendError(f"No backend of model {model} answered. {said}", attempts=attempts, retry_after=retry_after)


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
