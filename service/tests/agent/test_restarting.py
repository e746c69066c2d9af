"""Whether an engine is started anew."""

import itertools
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.agent.configuration import RestartLimits
from athena.agent.judging import State
from athena.agent.restarting import Action, Attempts, Candidate, after, choose, decide, with_restart

LIMITS = RestartLimits(most=3, window_seconds=3600, pause_seconds=60)
NOW = 1_800_000_000.0


def engine(
    state: str = "hung",
    *ages: float,
    name: str = "a",
    given_up: bool = False,
    can_restart: bool = True,
    process: int | None = None,
) -> Candidate:
    """Return an engine that was started anew so many seconds ago."""
    attempts = Attempts(
        restarts=tuple(NOW - age for age in ages),
        given_up_at=NOW - 5 if given_up else None,
        process=7 if given_up else None,
    )
    return Candidate(name=name, state=State(state), can_restart=can_restart, attempts=attempts, process=process)


@pytest.mark.parametrize(
    ("candidate", "action", "reason"),
    [
        *((engine(state), "nothing", "") for state in State if state is not State.HUNG),
        (engine(), "restart", "restart 1 of 3"),
        (engine(can_restart=False), "wait", "no job"),
        (engine("hung", 59), "wait", "in 1 s"),
        (engine("hung", 61), "restart", "restart 2 of 3"),
        (engine("hung", 1000, 119), "wait", "in 1 s"),  # the second pause is twice as long
        (engine("hung", 1000, 121), "restart", "restart 3 of 3"),
        (engine("hung", 3000, 2000, 1000), "give_up", "3 times within 3600 s"),
        (engine("hung", 3601, 2000, 1000), "restart", "restart 3 of 3"),
        (engine("hung", 9000, 8000, 7000), "restart", "restart 1 of 3"),
        (engine("hung", given_up=True), "give_up", "needs a person"),
        (engine("hung", -30.0), "restart", "restart 2 of 3"),  # the clock was set back
    ],
)
def test_only_an_engine_that_hangs_is_started_anew_and_only_within_limits(
    candidate: Candidate, action: str, reason: str
) -> None:
    decision = decide(candidate, NOW, LIMITS)
    assert decision.action == action
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("candidates", "running", "chosen"),
    [
        ([engine("healthy")], None, None),
        ([engine("hung", name="a"), engine("hung", name="b")], None, "a"),
        ([engine("hung", name="a"), engine("hung", name="b")], "b", None),
        ([engine("hung", 500, name="a"), engine("hung", name="b")], None, "b"),
        ([engine("hung", 500, name="a"), engine("hung", 900, name="b")], None, "b"),
        ([engine("starting", 30, name="a"), engine("hung", name="b")], None, None),  # it loads its model
        ([engine("starting", name="a"), engine("hung", name="b")], None, "b"),  # that is not our doing
        ([engine("healthy", 30, name="a"), engine("hung", name="b")], None, "b"),
        ([engine("hung", 3, 2, 1, name="a"), engine("hung", name="b")], None, "b"),
    ],
)
def test_one_engine_is_started_anew_at_a_time(
    candidates: Sequence[Candidate], running: str | None, chosen: str | None
) -> None:
    assert choose(candidates, NOW, LIMITS, running=running) == chosen


def test_giving_up_is_noted_and_holds_when_the_hour_has_passed() -> None:
    given_up = after(engine("hung", 3000, 2000, 1000, process=7), NOW, LIMITS)
    assert (given_up.given_up_at, given_up.process) == (NOW, 7)
    still = msgspec.structs.replace(engine("hung", process=7), attempts=given_up)
    assert after(still, NOW + 9000, LIMITS) == given_up
    assert decide(still, NOW + 9000, LIMITS).action is Action.GIVE_UP


@pytest.mark.parametrize(
    ("state", "process", "ends"),
    [
        ("hung", 7, False),
        ("suspect", 7, False),
        ("busy", 7, False),
        ("down", None, False),
        ("starting", 8, True),
        ("hung", 8, True),
        ("healthy", 7, True),
        ("healthy", None, True),
    ],
)
def test_giving_up_ends_once_the_engine_recovers_or_somebody_has_replaced_its_process(
    state: str, process: int | None, ends: bool
) -> None:
    attempts = after(engine(state, 3000, 2000, 1000, given_up=True, process=process), NOW, LIMITS)
    assert (attempts.given_up_at is None) is ends
    assert len(attempts.restarts) == 3


@given(
    st.lists(st.tuples(st.floats(0, 600), st.sampled_from(State)), max_size=60),
    st.integers(1, 4),
    st.floats(0, 300),
)
def test_however_an_engine_behaves_there_are_no_more_restarts_in_an_hour_than_the_limit(
    steps: list[tuple[float, State]], most: int, pause: float
) -> None:
    limits = RestartLimits(most=most, window_seconds=3600, pause_seconds=pause)
    attempts, now, restarts = Attempts(), NOW, list[float]()
    for seconds, state in steps:
        now += seconds
        candidate = Candidate(name="a", state=state, can_restart=True, attempts=attempts)
        attempts = after(candidate, now, limits)
        candidate = msgspec.structs.replace(candidate, attempts=attempts)
        if choose([candidate], now, limits, running=None) == "a":
            assert state is State.HUNG
            attempts = with_restart(attempts, now, limits)
            restarts.append(now)
    for at in restarts:
        assert sum(at - 3600 < other <= at for other in restarts) <= most
    for before, behind in itertools.pairwise(restarts):
        assert behind - before >= min(pause, 3600) - 1e-3
