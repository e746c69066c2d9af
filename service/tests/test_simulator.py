"""The simulator of routing: its engines keep to the figures they are given, and nothing that is asked is lost."""

import logging
import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bench.plot import filled
from bench.simulator import machines, picture, report
from bench.simulator.__main__ import PAGE, compare, tables
from bench.simulator.engine import Job, SimulatedEngine, gained
from bench.simulator.fleets import FLEETS, Fleet
from bench.simulator.machines import MLX_GAIN, Machine, Speed
from bench.simulator.policies import POLICIES
from bench.simulator.routing import Simulation
from bench.simulator.timeline import Timeline
from bench.simulator.traces import FLOODER, TRACES, Ask, Mix, trace

COMMAND = Path(report.__file__).parents[1] / "simulate"
SPEED = Speed(100.0, 10.0, 1.6e9)  # reads 100 tokens a second, writes 10, is loaded in 2 s


@pytest.fixture(autouse=True)
def _hushed() -> Iterator[None]:
    """The router's lines about engines that do not exist are not written."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def ask(*, model: str = "m", conversation: int = 1, prompt: int = 100, known: int = 0, reply: int = 20) -> Ask:
    """Return a prompt that is asked at once."""
    return Ask(
        number=0,
        at=0.0,
        tenant="t",
        model=model,
        conversation=conversation,
        prompt_tokens=prompt,
        known_tokens=known,
        reply_tokens=reply,
        body=b"",
    )


def served(machine: Machine, asks: list[tuple[float, Ask]]) -> tuple[list[tuple[float, float]], SimulatedEngine]:
    """Return for each prompt, asked at a time, when its first token and its end came, in seconds from the beginning."""
    timeline = Timeline()
    engine = SimulatedEngine(machine, timeline)
    begin = timeline.now
    firsts: dict[int, float] = {}
    ends: dict[int, float] = {}

    def start(number: int, one: Ask) -> None:
        engine.start(
            Job(
                one,
                first_token=lambda: firsts.update({number: timeline.now - begin}),
                ended=lambda: ends.update({number: timeline.now - begin}),
            )
        )

    for number, (at, one) in enumerate(asks):
        timeline.at(begin + at, lambda number=number, one=one: start(number, one))  # type: ignore[misc] # its own defaults
    timeline.run()
    return [(firsts[number], ends[number]) for number in range(len(asks))], engine


def test_a_lone_prompt_at_a_cold_ollama_waits_for_load_reading_and_writing() -> None:
    times, engine = served(machines.ollama("o", {"m": SPEED}), [(0.0, ask())])
    first = 2.0 + machines.OLLAMA_FIRST_SECONDS + 1.0
    assert times[0] == pytest.approx((first, first + 2.0))
    assert engine.loads == 1


def test_eight_replies_at_once_are_written_by_mlx_as_fast_as_was_measured() -> None:
    times, _ = served(machines.mlx("x", {"m": SPEED}), [(0.0, ask(conversation=number)) for number in range(8)])
    reading = 8 * (machines.MLX_FIRST_SECONDS + 1.0)
    assert [first for first, _ in times] == [pytest.approx(reading)] * 8
    assert [end for _, end in times] == [pytest.approx(reading + 2.0 * 8 / 2.30)] * 8


def test_what_an_engine_has_read_at_the_last_turn_it_does_not_read_again() -> None:
    again = ask(prompt=220, known=120)
    machine = machines.mlx("x", {"m": SPEED})
    times, _ = served(machine, [(0.0, ask()), (10.0, again)])
    assert times[1][0] - 10.0 == pytest.approx(machines.MLX_FIRST_SECONDS + 1.0)
    others = [(10.0 * number, ask(conversation=number + 1)) for number in range(11)]
    times, _ = served(machine, [*others, (200.0, again)])
    assert times[-1][0] - 200.0 == pytest.approx(machines.MLX_FIRST_SECONDS + 2.2), "ten others have pushed it out"


def test_an_ollama_without_room_for_two_models_loads_whenever_the_other_one_is_asked_for() -> None:
    small = machines.ollama("o", {"m": SPEED, "n": SPEED}, memory=2e9)
    alternating = [(20.0 * number, ask(model="mn"[number % 2])) for number in range(6)]
    assert served(small, alternating)[1].loads == 6
    large = machines.ollama("o", {"m": SPEED, "n": SPEED}, memory=4e9)
    assert served(large, alternating)[1].loads == 2
    idle = [(0.0, ask()), (200.0, ask()), (900.0, ask())]
    assert served(large, idle)[1].loads == 2, "after five minutes without a prompt a model is unloaded"


@given(st.integers(1, 100))
def test_more_at_once_never_write_less_together_nor_more_for_each(count: int) -> None:
    assert gained(count, MLX_GAIN) <= gained(count + 1, MLX_GAIN) + 1e-9
    assert gained(count, MLX_GAIN) / count >= gained(count + 1, MLX_GAIN) / (count + 1) - 1e-9


def test_gains_are_those_that_were_measured() -> None:
    assert [gained(count, MLX_GAIN) for count in (1, 2, 4, 8, 32)] == [1.0, 1.24, 1.78, 2.30, 2.30]


@pytest.mark.parametrize("kind", TRACES)
@pytest.mark.parametrize("seed", range(5))
def test_traces_ask_as_much_as_they_say_and_repeat_themselves(kind: str, seed: int) -> None:
    mix = Mix(models={"a": 3.0, "b": 1.0})
    asks = trace(TRACES[kind], mix, rate=0.5, count=2000, seed=seed)
    assert asks == trace(TRACES[kind], mix, rate=0.5, count=2000, seed=seed)
    assert len(asks) == 2000
    assert [one.at for one in asks] == sorted(one.at for one in asks)
    assert 2000 / asks[-1].at == pytest.approx(0.5, rel=0.12)
    assert sum(one.model == "a" for one in asks) / 2000 == pytest.approx(0.75, abs=0.12)
    flooding = [one.at for one in asks if one.tenant == FLOODER]
    assert len(flooding) == (500 if kind == "flood" else 0)
    assert not flooding or flooding[-1] - flooding[0] < asks[-1].at / 4


def test_a_conversation_goes_on_with_what_was_said() -> None:
    asks = trace(TRACES["poisson"], Mix(models={"a": 1.0}), rate=1.0, count=500, seed=3)
    turns: dict[int, list[Ask]] = {}
    for one in asks:
        turns.setdefault(one.conversation, []).append(one)
    followed = [pair for turn in turns.values() for pair in pairwise(turn)]
    assert len(followed) > 100
    for before, after in followed:
        assert after.body.startswith(before.body)
        assert after.known_tokens == before.prompt_tokens + before.reply_tokens < after.prompt_tokens


@pytest.mark.parametrize("fleet", FLEETS, ids=lambda fleet: fleet.name)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_prompt_is_answered_or_refused_and_every_slot_given_back(fleet: Fleet, policy: str) -> None:
    for seed in range(3):
        asks = trace(TRACES["flood"], fleet.mix, rate=fleet.rate * 1.5, count=150, seed=seed)
        simulation = Simulation(fleet, POLICIES[policy], seed=seed)
        outcomes = simulation.run(asks)
        assert len(outcomes) == 150
        for outcome in outcomes:
            assert (outcome.whole is None) == outcome.refused
            if outcome.whole is not None:
                assert outcome.first is not None
                assert 0 < outcome.first <= outcome.whole
        assert all(not gate.in_use and not gate.queued for gate in simulation.gates)
        assert all(not engine.jobs for engine in simulation.engines.values())


def test_a_prompt_at_an_engine_that_hangs_moves_and_one_in_its_stream_is_broken() -> None:
    trouble = next(fleet for fleet in FLEETS if fleet.name == "trouble")
    hang = trouble.mishaps[1]
    asks = trace(TRACES["poisson"], trouble.mix, rate=trouble.rate, count=400, seed=1)
    outcomes = Simulation(trouble, POLICIES["mlx first, by weight"], seed=1).run(asks)
    length = asks[-1].at
    during = [one for one in outcomes if hang.begins * length + 2.0 < one.ask.at < hang.ends * length]
    answered = [one for one in during if one.first is not None]
    assert len(answered) > 5
    assert min(one.first for one in answered if one.first is not None) < 10.0, "the other engine answers at once"


def test_the_oracle_keeps_tails_short_and_the_same_seed_gives_the_same_figures() -> None:
    fleet = FLEETS[0]
    found = compare(fleet, "poisson", seed=1, prompts=300, traces=1)
    assert found == compare(fleet, "poisson", seed=1, prompts=300, traces=1)
    simple = ("round robin", "least busy", "mlx first, by weight")
    assert all(found["greedy oracle"].whole[1] < found[name].whole[1] for name in simple)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], share: float) -> None:
    found = report.percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


def test_one_command_prints_a_row_for_every_policy() -> None:
    done = subprocess.run(
        [COMMAND, "--only", "auto", "--prompts", "30", "--traces", "1"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for kind in TRACES:
        assert f"{kind}: one `auto` backend" in done.stdout
    for policy in POLICIES:
        assert len(re.findall(rf"^{policy}  ", done.stdout, re.MULTILINE)) == len(TRACES)


def test_seeds_do_not_depend_on_the_order_of_policies() -> None:
    fleet = FLEETS[1]
    asks = trace(TRACES["bursts"], fleet.mix, rate=fleet.rate, count=100, seed=2)
    first = Simulation(fleet, POLICIES["mlx first, by weight"], seed=2).run(asks)
    Simulation(fleet, POLICIES["greedy oracle"], seed=2).run(asks)
    second = Simulation(fleet, POLICIES["mlx first, by weight"], seed=2).run(asks)
    assert [one.whole for one in first] == [one.whole for one in second]


@pytest.mark.parametrize("fleet", FLEETS, ids=lambda fleet: fleet.name)
@pytest.mark.parametrize("kind", ["poisson", "flood"])
def test_what_is_measured_makes_tails_shorter_than_what_the_router_does_by_itself(fleet: Fleet, kind: str) -> None:
    found = compare(fleet, kind, seed=11, prompts=400, traces=3)
    for judged in ("measured", "warm"):
        assert found[judged].whole[1] < found["mlx first, by weight"].whole[1]
    assert found["warm"].loads <= found["measured"].loads + 4
    same = "warm" if fleet.name == "hosts" else "mlx first, by weight"
    assert found["default"].whole[1] == pytest.approx(found[same].whole[1], rel=0.01)


def test_the_docs_have_a_place_for_the_tables_and_name_every_policy() -> None:
    found = {"auto, poisson": compare(FLEETS[0], "poisson", seed=1, prompts=40, traces=1)}
    shown = filled(PAGE.read_text(encoding="utf-8"), {"figures": tables(found, "a few prompts")})
    assert "a few prompts" in shown
    for policy in POLICIES:
        assert f"| {policy} |" in shown


def test_the_picture_has_bars_for_every_policy_of_every_panel() -> None:
    found = compare(FLEETS[0], "poisson", seed=1, prompts=40, traces=1)
    drawn = picture.picture({"one": found, "other": found})
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert [text for text in texts if text in POLICIES] == [*POLICIES, *POLICIES]
    assert drawn.count("<rect") == 1 + 2 * 2 * len(POLICIES)
