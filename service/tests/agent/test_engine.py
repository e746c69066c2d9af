"""What is kept of an engine between its probes."""

import pytest

from athena.agent.configuration import EngineConfig
from athena.agent.engine import Engine
from athena.agent.host.figures import ProcessFigures
from athena.agent.judging import Outcome, Result, State
from athena.agent.restarting import Attempts
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Engine:
    declared = {"name": "a", "kind": "mlx", "url": "http://h:1", "model": "m", "hung_after": 2, "grace_seconds": 100}
    return Engine(EngineConfig.model_validate(declared), Attempts(), clock=clock)


def process(pid: int, age: float) -> ProcessFigures:
    return ProcessFigures(pid=pid, resident=1, cpu_seconds=1.0, age=age)


def note(engine: Engine, clock: Clock, outcome: Outcome, begun: float | None = None) -> State:
    clock.now += 10
    engine.note(Result(begun=clock.now if begun is None else begun, seconds=1.0, outcome=outcome))
    return engine.state


def test_an_engine_that_hung_before_the_agent_came_gets_no_grace_where_its_process_is_old(
    engine: Engine, clock: Clock
) -> None:
    engine.saw_process(process(7, age=5000.0))
    assert note(engine, clock, Outcome.SILENT) is State.SUSPECT
    assert note(engine, clock, Outcome.SILENT) is State.HUNG


def test_where_nothing_is_known_of_the_process_the_grace_begins_with_the_agent(engine: Engine, clock: Clock) -> None:
    assert note(engine, clock, Outcome.SILENT) is State.STARTING
    clock.now += 100
    assert note(engine, clock, Outcome.SILENT) is State.HUNG


def test_an_engine_that_was_up_is_down_for_as_long_as_nobody_listens(engine: Engine, clock: Clock) -> None:
    assert note(engine, clock, Outcome.TOKEN) is State.HEALTHY
    for _ in range(200):  # more than are remembered, within the time that it would have to start
        clock.now -= 9.9
        assert note(engine, clock, Outcome.REFUSED) is State.DOWN
    engine.saw_process(process(8, age=0.0))
    assert note(engine, clock, Outcome.SILENT) is State.STARTING, "another one has shown nothing yet"


def test_another_process_has_shown_nothing_yet(engine: Engine, clock: Clock) -> None:
    engine.saw_process(process(7, age=5000.0))
    note(engine, clock, Outcome.SILENT)
    note(engine, clock, Outcome.SILENT)
    clock.now += 10
    engine.saw_process(process(8, age=3.0))
    assert engine.state is State.STARTING
    assert note(engine, clock, Outcome.SILENT) is State.STARTING


def test_a_process_that_the_agent_has_not_ended_was_replaced_by_itself(engine: Engine) -> None:
    assert not engine.saw_process(process(7, age=5000.0)), "whatever was before the agent is not known"
    assert not engine.saw_process(process(7, age=5010.0))
    assert engine.saw_process(process(8, age=3.0))
    assert not engine.saw_process(process(8, age=13.0))
    assert not engine.saw_process(None), "gone, and not replaced yet"
    assert engine.saw_process(process(9, age=1.0))


def test_a_process_that_the_agent_has_ended_was_not_replaced_by_itself(engine: Engine, clock: Clock) -> None:
    engine.saw_process(process(7, age=5000.0))
    engine.is_being_ended()
    engine.started(clock.now)
    assert not engine.saw_process(None)
    assert not engine.saw_process(process(8, age=3.0))
    assert engine.saw_process(process(9, age=3.0)), "what came after the restart has crashed"


def test_a_restart_that_ends_the_process_late_is_still_the_agents(engine: Engine) -> None:
    engine.saw_process(process(7, age=5000.0))
    engine.is_being_ended()
    assert not engine.saw_process(process(7, age=5030.0)), "it is still there when the service manager gives up"
    assert not engine.saw_process(process(8, age=3.0))


def test_a_process_that_is_seen_for_the_first_time_takes_nothing_back(engine: Engine, clock: Clock) -> None:
    note(engine, clock, Outcome.TOKEN)
    engine.saw_process(process(7, age=5000.0))
    assert engine.state is State.HEALTHY


def test_an_engine_that_listens_again_is_starting(engine: Engine, clock: Clock) -> None:
    note(engine, clock, Outcome.TOKEN)
    assert note(engine, clock, Outcome.REFUSED) is State.DOWN
    assert note(engine, clock, Outcome.SILENT) is State.STARTING
    assert note(engine, clock, Outcome.TOKEN) is State.HEALTHY


def test_a_probe_that_began_before_the_restart_says_nothing_of_the_engine_after_it(
    engine: Engine, clock: Clock
) -> None:
    note(engine, clock, Outcome.TOKEN)
    begun = clock.now
    engine.started(clock.now + 5)
    assert note(engine, clock, Outcome.FAILED, begun) is State.STARTING
    assert engine.last is None


def test_a_probe_that_waits_is_one_probe(engine: Engine, clock: Clock) -> None:
    engine.saw_process(process(7, age=5000.0))
    note(engine, clock, Outcome.SILENT)
    first = clock.now
    begun = clock.now + 1
    for _ in range(3):
        assert note(engine, clock, Outcome.WAITING, begun) is State.BUSY
    assert engine.unproven_since == first
    assert note(engine, clock, Outcome.LATE, begun) is State.BUSY
    assert engine.unproven_since is None
