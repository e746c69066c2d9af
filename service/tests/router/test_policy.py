"""The router's decisions, tried by the thousand."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athena.router.errors import (
    BackendError,
    FailureKind,
    ModelNotFoundError,
    NeedWithoutHomeError,
    NoBackendError,
)
from athena.router.policy import Failure, falls_back, speed, targets, verdict
from athena.router.types import Backend, BackendType, Target, Usage

OLLAMA = "http://ollama.example.internal:11434"


def backend(number: int, **more: object) -> Backend:
    """Return a backend with an address of its own."""
    fields = {"backend_type": BackendType.MLX, "endpoint_url": f"http://host{number}.example.internal"} | more
    return Backend(model_name="m", id=number, **fields)  # type: ignore[arg-type] # fields of any type


backends = st.lists(
    st.builds(
        backend,
        st.integers(1, 6),
        backend_type=st.sampled_from(BackendType),
        enabled=st.booleans(),
        priority=st.integers(0, 3),
        weight=st.integers(0, 1000),
    ),
    max_size=8,
)


def route(rows: list[Backend], seed: int = 0) -> tuple[Target, ...]:
    """Return the targets for rows."""
    return targets(rows, model="m", ollama_url=OLLAMA, random=Random(seed))  # noqa: S311 - repeatable, nothing secret


@given(backends, st.integers())
def test_every_enabled_backend_is_tried_and_no_other(rows: list[Backend], seed: int) -> None:
    found = route(rows, seed)
    enabled = {row.endpoint_url for row in rows if row.enabled}
    assert {target.endpoint_url for target in found} - {OLLAMA} == enabled
    assert found
    assert all(target.backend.enabled for target in found)


@given(backends, st.integers())
def test_no_engine_is_tried_twice_and_none_is_auto(rows: list[Backend], seed: int) -> None:
    tried = [(target.engine, target.endpoint_url) for target in route(rows, seed)]
    assert len(tried) == len(set(tried))
    assert BackendType.AUTO not in {engine for engine, _ in tried}


@given(backends, st.integers())
def test_priorities_are_tried_in_order_and_weight_nought_last_in_its_group(rows: list[Backend], seed: int) -> None:
    tried = list(dict.fromkeys(id(target.backend) for target in route(rows, seed) if target.backend.id is not None))
    by_id = {id(row): row for row in rows}
    order = [(by_id[row].priority, by_id[row].weight == 0) for row in tried]
    assert order == sorted(order)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 100), min_size=2, max_size=5), st.integers())
def test_each_comes_first_as_often_as_its_weight_says(weights: list[int], seed: int) -> None:
    rows = [backend(number, weight=weight) for number, weight in enumerate(weights)]
    random = Random(seed)  # noqa: S311 - repeatable, nothing secret
    rounds = 3000
    first = Counter(targets(rows, model="m", ollama_url=OLLAMA, random=random)[0].backend.id for _ in range(rounds))
    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        deviation = (share * (1 - share) / rounds) ** 0.5
        assert abs(first[number] / rounds - share) < 6 * deviation + 1 / rounds


@pytest.mark.parametrize("rows", [[], [backend(1, enabled=False), backend(2, enabled=False)]])
def test_a_model_without_an_enabled_backend_has_the_default_ollama(rows: list[Backend]) -> None:
    (target,) = route(rows)
    assert (target.engine, target.endpoint_url, target.backend.id) == (BackendType.OLLAMA, OLLAMA, None)


def test_auto_is_mlx_and_then_the_default_ollama() -> None:
    first, second = route([backend(1, backend_type=BackendType.AUTO)])
    assert (first.engine, first.endpoint_url) == (BackendType.MLX, "http://host1.example.internal")
    assert (second.engine, second.endpoint_url) == (BackendType.OLLAMA, OLLAMA)
    assert falls_back(first, second)
    assert not falls_back(second, None)


def test_without_a_default_ollama_auto_is_mlx_alone_and_a_model_without_a_backend_has_nothing() -> None:
    def found(*rows: Backend) -> list[BackendType]:
        random = Random(0)  # noqa: S311 - repeatable, nothing secret
        return [target.engine for target in targets(rows, model="m", ollama_url=None, random=random)]

    assert found(backend(1, backend_type=BackendType.AUTO)) == [BackendType.MLX]
    assert found(backend(1, enabled=False)) == []
    assert found() == []


def test_going_to_the_next_backend_of_a_route_is_no_fallback_of_auto() -> None:
    first, second = route([backend(1, priority=0), backend(2, priority=1)])
    assert not falls_back(first, second)


def failure(kind: FailureKind, engine: BackendType = BackendType.OLLAMA, status: int | None = None) -> Failure:
    """Return a failure of some engine."""
    target = Target(backend=backend(1), engine=engine, endpoint_url="http://host1.example.internal")
    return Failure(target, BackendError(kind, "it said so", upstream_status=status))


def test_a_caller_is_told_each_attempt_and_when_to_come_back() -> None:
    error = verdict("m", [failure(FailureKind.TIMEOUT, BackendType.MLX), failure(FailureKind.REFUSED)])
    assert isinstance(error, NoBackendError)
    assert error.attempts == (
        ("mlx at http://host1.example.internal", "timeout: it said so"),
        ("ollama at http://host1.example.internal", "refused: it said so"),
    )
    assert error.retry_after == 5
    assert "mlx at http://host1.example.internal: timeout: it said so" in error.detail


@given(st.lists(st.sampled_from([kind for kind in FailureKind if kind is not FailureKind.REJECTED]), min_size=1))
def test_every_end_of_a_route_has_a_verdict(kinds: list[FailureKind]) -> None:
    error = verdict("m", [failure(kind) for kind in kinds])
    if set(kinds) == {FailureKind.UNSUITABLE}:
        assert isinstance(error, NeedWithoutHomeError)
    else:
        assert isinstance(error, NoBackendError)
        assert error.retry_after is not None
        assert error.retry_after > 0


def test_a_model_that_no_engine_has_is_not_found_rather_than_unavailable() -> None:
    lacking = failure(FailureKind.STATUS, status=404)
    assert isinstance(verdict("m", [lacking]), ModelNotFoundError)
    # mlx_lm.server says 404 whatever happens, so it is no proof.
    with_mlx = verdict("m", [failure(FailureKind.STATUS, BackendType.MLX, 404), lacking])
    assert not isinstance(with_mlx, ModelNotFoundError)


@pytest.mark.parametrize(
    ("usage", "after_first", "expected"),
    [
        (Usage(completion_tokens=10, completion_seconds=0.5), 9.0, (10, 0.5)),
        (Usage(completion_tokens=11), 2.0, (10, 2.0)),
        (Usage(completion_tokens=1), 2.0, (1, 3.0)),
        (Usage(completion_tokens=11), None, (11, 3.0)),
        (Usage(completion_tokens=11), 0.0, (11, 3.0)),
    ],
)
def test_speed_is_measured_as_well_as_it_can_be(
    usage: Usage, after_first: float | None, expected: tuple[int, float]
) -> None:
    assert speed(usage, seconds=3.0, after_first_token=after_first) == expected
