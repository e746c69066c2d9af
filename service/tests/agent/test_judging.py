"""What the results of probes make of an engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.agent.judging import (
    Outcome,
    Result,
    Signs,
    State,
    failures_in_a_row,
    is_at_work,
    is_worth_waiting,
    judge,
    of_failure,
)
from athena.router.errors import FailureKind

LETTERS = {
    "t": Outcome.TOKEN,
    "l": Outcome.LATE,
    "w": Outcome.WAITING,
    "o": Outcome.OVERLOADED,
    "a": Outcome.ANSWERS,
    "s": Outcome.SILENT,
    "f": Outcome.FAILED,
    "r": Outcome.REFUSED,
    "m": Outcome.WRONG_MODEL,
}


def results(outcomes: str) -> list[Result]:
    """Return results, one every ten seconds, from their letters."""
    return [Result(begun=10.0 * number, seconds=1.0, outcome=LETTERS[letter]) for number, letter in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("outcomes", "now", "state"),
    [
        ("", 1000, "starting"),
        ("t", 1000, "healthy"),
        ("a", 1000, "healthy"),
        ("tl", 1000, "busy"),
        ("tw", 1000, "busy"),
        ("to", 1000, "busy"),
        ("ts", 1000, "suspect"),
        ("tss", 1000, "suspect"),
        ("tsss", 1000, "hung"),
        ("tfff", 1000, "hung"),
        ("tsfs", 1000, "hung"),
        ("tssts", 1000, "suspect"),
        ("tssws", 1000, "suspect"),  # at work in between
        ("tsssw", 1000, "busy"),
        ("tssrs", 1000, "suspect"),  # another process
        ("tssst", 1000, "healthy"),
        ("tr", 1000, "down"),
        ("tsssr", 1000, "down"),
        ("m", 1000, "wrong_model"),
        ("tm", 1000, "wrong_model"),
        ("sss", 50, "starting"),  # within the grace of 100 s
        ("fff", 50, "starting"),
        ("rrr", 50, "starting"),
        ("sss", 100, "hung"),
        ("rrr", 100, "down"),
        ("tsss", 50, "hung"),  # it was up already
        ("wsss", 50, "starting"),  # at work is not up: it may be loading
        ("lsss", 50, "hung"),
    ],
)
def test_the_state_of_an_engine_follows_from_its_results(outcomes: str, now: float, state: str) -> None:
    assert judge(results(outcomes), now=now, started_at=0.0, grace=100.0, hung_after=3) == state


@given(st.text("tlwoasfrm", max_size=12), st.integers(1, 6), st.floats(0, 1000), st.floats(0, 300))
def test_an_engine_hangs_only_after_so_many_failures_in_a_row_and_none_that_is_starting(
    outcomes: str, hung_after: int, now: float, grace: float
) -> None:
    state = judge(results(outcomes), now=now, started_at=0.0, grace=grace, hung_after=hung_after)
    if state is State.HUNG:
        assert set(outcomes[-hung_after:]) <= set("sf")
        assert len(outcomes) >= hung_after
        assert now >= grace or set(outcomes) & set("tloam")
    if outcomes and outcomes[-1] in "tlwoa":
        assert state in (State.HEALTHY, State.BUSY)


def test_failures_are_counted_from_the_last() -> None:
    assert [failures_in_a_row(results(outcomes)) for outcomes in ("", "t", "st", "ts", "sfs", "stff")] == [
        *(0, 0, 0, 1, 3, 2)
    ]


@pytest.mark.parametrize(
    ("signs", "at_work"),
    [
        (Signs(cpu=0.0), False),
        (Signs(cpu=0.02, others=7), False),  # those wait in vain
        (Signs(cpu=0.5), True),
        (Signs(cpu=0.02, gpu=80.0), True),  # a long prompt is read by the GPU alone
        (Signs(cpu=0.02, gpu=80.0, others=2), True),
        (Signs(cpu=0.02, gpu=80.0, others=0), False),  # that is another engine's work
        (Signs(cpu=0.5, gpu=0.0, others=0), True),  # for callers who have gone
        (Signs(cpu=0.0, gpu=3.0, others=7), False),
        (Signs(gpu=50.0), True),
        (Signs(others=0), False),
        (Signs(others=1), True),
        (Signs(), True),  # nothing can be seen: patience decides
    ],
)
def test_signs_tell_an_engine_at_work_from_one_that_hangs(signs: Signs, at_work: bool) -> None:
    assert is_at_work(signs) is at_work


def test_patience_ends_even_with_an_engine_that_seems_to_be_at_work() -> None:
    busy = Signs(cpu=1.0)
    assert is_worth_waiting(busy, without_token=899.0, patience=900.0)
    assert not is_worth_waiting(busy, without_token=900.0, patience=900.0)
    assert not is_worth_waiting(Signs(cpu=0.0), without_token=1.0, patience=900.0)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        (FailureKind.REFUSED, Outcome.REFUSED),
        (FailureKind.TIMEOUT, Outcome.SILENT),
        (FailureKind.RESET, Outcome.FAILED),
        (FailureKind.EMPTY, Outcome.FAILED),
        (FailureKind.MALFORMED, Outcome.FAILED),
    ],
)
def test_failures_of_a_connection_are_told_apart(kind: FailureKind, outcome: Outcome) -> None:
    assert of_failure(kind) is outcome
