"""The choice among targets, tried by the thousand."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.router.judging.choosing import (
    AS_GOOD,
    EXPLORED,
    HYSTERESIS,
    LOAD_COUNTS,
    OUTDATED_SECONDS,
    STALE_SECONDS,
    WORTH_EXPLORING,
    Candidate,
    Choice,
    choose,
    describe,
    expected,
)
from athena.router.judging.estimates import Estimate

NOW = 1000.0
estimates = st.builds(Estimate, st.floats(0.001, 100.0), st.integers(1, 99), st.floats(0.0, NOW))
candidates = st.lists(
    st.builds(
        Candidate,
        name=st.just(""),
        usable=st.booleans(),
        busy=st.floats(0, 9),
        wait=st.one_of(st.just(0.0), st.floats(0, 60)),
        load=st.one_of(st.just(0.0), st.floats(0, 60)),
        first=st.none() | estimates,
        token=st.none() | estimates,
    ),
    min_size=1,
    max_size=6,
).map(lambda found: [_named(one, f"host{number}") for number, one in enumerate(found)])


def _named(one: Candidate, name: str) -> Candidate:
    return Candidate(
        name=name, usable=one.usable, busy=one.busy, wait=one.wait, load=one.load, first=one.first, token=one.token
    )


def target(
    name: str,
    first: float,
    *,
    age: float = 1.0,
    usable: bool = True,
    busy: float = 0.0,
    wait: float = 0.0,
    load: float = 0.0,
) -> Candidate:
    """Return a target whose first token was seen to take so long, so many seconds ago."""
    seen = Estimate(first, 5, NOW - age)
    token = Estimate(0.0, 5, NOW)
    return Candidate(name=name, usable=usable, busy=busy, wait=wait, load=load, first=seen, token=token)


def of(found: list[Candidate], *, last: str | None = None, chance: float = 1.0) -> Choice:
    """Return the choice among them."""
    return choose(found, tokens=100, last=last, now=NOW, chance=chance)


@given(candidates, st.sampled_from([None, "host0", "host1"]), st.floats(0, 1))
def test_every_target_is_in_the_order_once_and_none_out_of_use_before_one_in_use(
    found: list[Candidate], last: str | None, chance: float
) -> None:
    choice = of(found, last=last, chance=chance)
    assert sorted(choice.order) == list(range(len(found)))
    usable = [found[place].usable for place in choice.order]
    assert usable == sorted(usable, reverse=True)
    assert 1 <= choice.together <= max(1, sum(usable))
    assert choice.because
    assert len(choice.judged) == len(found)
    assert all(describe(one, NOW).startswith(one.candidate.name) for one in choice.judged)


@given(candidates)
def test_the_one_that_is_expected_to_be_done_first_is_chosen_where_loading_a_model_counts_for_more(
    found: list[Candidate],
) -> None:
    usable = [one for one in found if one.usable]
    costs = {
        one.name: seconds + (LOAD_COUNTS - 1) * one.load
        for one in usable
        if (seconds := expected(one, 100)) is not None
    }
    if costs and len(costs) == len(usable):
        assert costs[found[of(found).order[0]].name] == pytest.approx(min(costs.values()))


@given(candidates, st.floats(EXPLORED, 1.0))
def test_the_same_is_chosen_for_the_same(found: list[Candidate], chance: float) -> None:
    assert of(found, chance=chance) == of(found, chance=1.0)


def test_waiting_and_loading_count() -> None:
    assert of([target("a", 1.0, wait=5.0, busy=1.0), target("b", 4.0)]).order == (1, 0)
    assert of([target("a", 1.0, load=5.0), target("b", 4.0)]).order == (1, 0)
    assert of([target("a", 1.0), target("b", 4.0)]).order == (0, 1)


def test_the_last_one_stays_unless_another_one_is_clearly_better() -> None:
    slightly, clearly = 1.0 - HYSTERESIS / 2, 1.0 - HYSTERESIS * 1.5
    assert of([target("a", 1.0), target("b", slightly)], last="a").order[0] == 0
    assert of([target("a", 1.0), target("b", slightly)], last="b").order[0] == 1
    assert of([target("a", 1.0), target("b", clearly)], last="a").order[0] == 1


@pytest.mark.parametrize("seed", range(300))
def test_it_does_not_flap_where_two_are_alike(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - repeatable, nothing secret
    last, changes = None, 0
    for _ in range(200):
        found = [target("a", random.uniform(0.95, 1.05)), target("b", random.uniform(0.95, 1.05))]
        chosen = found[of(found, last=last).order[0]].name
        changes += last is not None and chosen != last
        last = chosen
    assert changes == 0


def test_a_target_with_old_figures_is_tried_now_and_then() -> None:
    found = [target("a", 1.0), target("b", 2.0, age=STALE_SECONDS + 1)]
    random = Random(7)  # noqa: S311 - repeatable, nothing secret
    tried = sum(of(found, chance=random.random()).order[0] == 1 for _ in range(20_000))
    assert tried / 20_000 == pytest.approx(EXPLORED, rel=0.2)
    assert "to see how fast it is now" in of(found, chance=0.0).because


@pytest.mark.parametrize(
    "other",
    [
        target("b", 2.0, age=STALE_SECONDS - 1),
        target("b", WORTH_EXPLORING + 0.1, age=OUTDATED_SECONDS - 1),
        target("b", 2.0, age=1e3, busy=0.5),
        target("b", 2.0, age=1e3, usable=False),
    ],
    ids=["fresh", "much too slow", "at work", "out of use"],
)
def test_no_prompt_is_spent_on(other: Candidate) -> None:
    assert of([target("a", 1.0), other], chance=0.0).order[0] == 0


def test_where_nothing_is_known_the_routes_order_holds_until_one_has_its_hands_full() -> None:
    unknown = [Candidate(name="a", usable=True, busy=0.5), Candidate(name="b", usable=True)]
    assert of(unknown).order == (0, 1)
    unknown[0] = Candidate(name="a", usable=True, busy=1.0)
    assert of(unknown).order == (1, 0)


def test_one_of_which_nothing_is_known_is_tried_at_once_but_not_by_all() -> None:
    known = target("a", 1.0)
    assert of([known, Candidate(name="b", usable=True)]).order[0] == 1
    assert of([known, Candidate(name="b", usable=True)], last="a").order[0] == 1
    assert of([known, Candidate(name="b", usable=True, busy=1.0)]).order[0] == 0


def test_of_engines_that_nothing_is_known_of_the_least_busy_are_waited_for_together() -> None:
    def unknown(name: str, busy: float) -> Candidate:
        return Candidate(name=name, usable=True, busy=busy)

    assert of([unknown("a", 1.0), unknown("b", 2.0), unknown("c", 1.5)]).order == (0, 2, 1)
    assert of([unknown("a", 1.0), unknown("b", 2.0), unknown("c", 1.5)]).together == 2
    assert of([unknown("a", 0.0), unknown("b", 0.0)]).together == 1, "the first one has a slot at once"


def test_those_that_are_as_good_are_waited_for_together() -> None:
    busy = target("a", 1.0, wait=9.0)
    assert of([busy, target("b", 10.0 * AS_GOOD - 0.1)]).together == 2
    assert of([busy, target("b", 10.0 * AS_GOOD + 0.1)]).together == 1
    assert of([target("a", 1.0), target("b", 1.0)]).together == 1, "the first one has a slot at once"


def test_the_reason_names_both_and_their_seconds() -> None:
    choice = of([target("a", 1.0), target("b", 4.0)])
    assert choice.because == "a is expected to be done in 1.0 s, b in 4.0 s"
    kept = of([target("a", 1.0), target("b", 0.95)], last="a")
    assert kept.because.endswith("b in 0.9 s, which is too little a gain to change")
    assert of([target("a", 1.0), target("b", 1.0, usable=False)]).because == "a is the only one in use"


def test_the_figures_are_told_in_words() -> None:
    one = Candidate(
        name="mlx at http://mac1:8080",
        usable=True,
        wait=1.5,
        load=3.0,
        first=Estimate(0.25, 12, NOW - 40),
        token=Estimate(0.02, 9, NOW),
        warm_bytes=2048,
    )
    (judged,) = of([one]).judged
    assert describe(judged, NOW) == (
        "mlx at http://mac1:8080: 6.8 s (first token in 0.25 s, 50.0 tokens/s, a slot in 1.5 s, "
        "its model loaded in 3.0 s, has served 2048 bytes of it before; 12 seen, the last 40 s ago)"
    )


def test_a_load_is_worth_a_wait_that_is_longer_than_the_load_itself() -> None:
    def first(wait: float) -> str:
        found = choose(
            [target("warm", 1.0, wait=wait), target("cold", 1.0, load=5.0)], tokens=0.0, last=None, now=NOW, chance=1.0
        )
        return found.judged[found.order[0]].candidate.name

    assert first(5.0 * LOAD_COUNTS - 0.1) == "warm"
    assert first(5.0 * LOAD_COUNTS + 0.1) == "cold"


def test_whoever_would_be_sooner_but_for_what_the_load_costs_others_is_named() -> None:
    found = choose(
        [target("warm", 1.0, wait=8.0), target("cold", 1.0, load=5.0)], tokens=0.0, last=None, now=NOW, chance=1.0
    )
    assert found.because == (
        "warm is expected to be done in 9.0 s; cold in 6.0 s, but would have to load the model for it"
    )
