"""The fair queue, tried on thousands of random arrivals."""

from collections import Counter
from random import Random

import pytest

from athena.router.admission import AGED_EVERY, AGED_SECONDS, FairQueue, Waiter

SHORT, LONG = 200, 64 * 1024


def waiter(name: str, caller: str = "a", priority: int = 1, size: int = SHORT, since: float = 0.0) -> Waiter[str]:
    """Return one that waits."""
    return Waiter(name, caller, priority, size, since)


def drain(queue: FairQueue[str], now: float = 0.0, places: int = 10**6) -> list[str]:
    """Return who is served, in order."""
    served = []
    while places and (next_ := queue.pop(now)) is not None:
        served.append(next_.item)
        places -= 1
    return served


def filled(*waiters: Waiter[str], limit: int = 10**6) -> FairQueue[str]:
    """Return a queue with these in it."""
    queue: FairQueue[str] = FairQueue(limit)
    for one in waiters:
        queue.add(one)
    return queue


def test_one_caller_is_served_in_the_order_in_which_it_came() -> None:
    assert drain(filled(*(waiter(str(number)) for number in range(20)))) == [str(number) for number in range(20)]


def test_a_caller_with_one_request_does_not_wait_for_all_of_anothers() -> None:
    queue = filled(*(waiter(f"greedy {number}", "greedy") for number in range(100)), waiter("modest", "modest"))
    assert drain(queue).index("modest") <= 1


def test_callers_who_all_wait_are_served_alike() -> None:
    queue = filled(*(waiter(caller, caller) for caller in "abcd" for _ in range(50)))
    shares = Counter(drain(queue, places=100))
    assert max(shares.values()) - min(shares.values()) <= 1


def test_long_prompts_do_not_starve_short_ones_of_anybody() -> None:
    queue = filled(
        *(waiter("long", "bulk", size=LONG) for _ in range(50)),
        *(waiter("own short", "bulk") for _ in range(5)),
        *(waiter("short", "other") for _ in range(5)),
    )
    first = drain(queue, places=12)
    assert first.count("short") == 5
    assert first.count("own short") == 5


def test_long_prompts_have_their_turn_as_well() -> None:
    queue = filled(waiter("long", "bulk", size=LONG), *(waiter("short", f"caller {number}") for number in range(10)))
    assert drain(queue).index("long") < 11
    busy = filled(*(waiter("long", "bulk", size=LONG) for _ in range(3)), *(waiter("s", "other") for _ in range(200)))
    assert drain(busy, places=100).count("long") >= 2


def test_the_urgent_go_first() -> None:
    queue = filled(waiter("low", priority=2), waiter("normal"), waiter("high", priority=0))
    assert drain(queue) == ["high", "normal", "low"]


def test_the_least_urgent_are_served_in_the_end_though_urgent_ones_never_cease() -> None:
    queue = filled(*(waiter("low", "batch", 2, since=0.0) for _ in range(5)))
    now = 0.0
    served: list[str] = []
    while "low" not in served or served.count("low") < 5:
        now += 1.0
        queue.add(waiter("high", "eager", 0, since=now))
        queue.add(waiter("high", "eager", 0, since=now))
        served += drain(queue, now, places=1)
        assert now < AGED_SECONDS + 5 * AGED_EVERY + 5
    assert served.count("high") >= served.count("low") * (AGED_EVERY - 1) - AGED_EVERY


def test_who_leaves_is_not_served_and_costs_the_others_nothing() -> None:
    leaving = [waiter("left", "a") for _ in range(50)]
    queue = filled(*leaving, waiter("stays", "a"), waiter("other", "b"))
    for one in leaving:
        queue.discard(one)
        queue.discard(one)
    assert len(queue) == 2
    assert sorted(drain(queue)) == ["other", "stays"]


def test_who_has_waited_for_too_long_is_taken_out_and_nobody_else() -> None:
    queue = filled(*(waiter(str(since), f"caller {since % 3}", since % 3, since=since) for since in range(10)))
    assert sorted(one.item for one in queue.expire(4)) == ["0", "1", "2", "3"]
    assert len(queue) == 6
    assert queue.oldest_since() == 4


def test_a_full_queue_gives_up_the_last_of_whoever_fills_it() -> None:
    greedy = [waiter(f"greedy {number}", "greedy") for number in range(8)]
    queue = filled(*greedy, limit=8)
    assert queue.full
    assert queue.to_make_room_for(waiter("more", "greedy")) is None, "its own turn to step back"
    assert queue.to_make_room_for(waiter("new", "modest")) is greedy[-1]
    assert queue.takes_more_than_its_share("greedy") is False, "while it is alone, all of it is its share"
    queue.discard(greedy[-1])
    queue.add(waiter("new", "modest"))
    assert queue.takes_more_than_its_share("greedy")
    assert not queue.takes_more_than_its_share("modest")


def test_a_newcomers_position_tells_how_many_are_served_before_it() -> None:
    queue = filled(*(waiter("greedy", "greedy") for _ in range(50)))
    assert queue.position(waiter("next", "modest")) == 2
    assert queue.position(waiter("last", "greedy")) == 51
    assert queue.position(waiter("first", "modest", 0)) == 1
    assert queue.position(waiter("later", "modest", 2)) == 51


@pytest.mark.parametrize("seed", range(10))
def test_whoever_comes_and_goes_all_are_served_once_and_nothing_is_left(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - repeatable, nothing secret
    queue: FairQueue[int] = FairQueue(50)
    waiting: dict[int, Waiter[int]] = {}
    served: Counter[int] = Counter()
    gone = turned_away = 0
    for number in range(3000):
        now = float(number) / 10
        one = Waiter(
            number, f"caller {int(random.expovariate(0.5))}", random.randrange(3), random.choice((50, 9000)), now
        )
        if queue.full and (other := queue.to_make_room_for(one)) is not None:
            queue.discard(other)
            del waiting[other.item]
            turned_away += 1
        if queue.full:
            turned_away += 1
        else:
            queue.add(one)
            waiting[number] = one
        for _ in range(random.choice((0, 0, 1, 1, 2))):
            if (next_ := queue.pop(now)) is not None:
                served[next_.item] += 1
                del waiting[next_.item]
        if waiting and random.random() < 0.1:
            queue.discard(waiting.pop(random.choice(list(waiting))))
            gone += 1
        assert len(queue) == len(waiting) <= 50
        assert len(queue.waiters()) == len(waiting)
        assert queue.oldest_since() == min((other.since for other in waiting.values()), default=0.0)
    while (next_ := queue.pop(1000.0)) is not None:
        served[next_.item] += 1
    assert set(served.values()) == {1}
    assert sum(served.values()) + gone + turned_away == 3000
    assert not queue._callers
    for class_ in queue._classes:
        assert (class_.count, len(class_.flows), len(class_._finished)) == (0, 0, 0)
        assert len(class_._ages) <= 64


@pytest.mark.parametrize("seed", range(5))
def test_no_backlogged_caller_falls_behind_another_by_more_than_a_few_prompts(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - repeatable, nothing secret
    queue: FairQueue[str] = FairQueue(10**6)
    sizes = {"a": 500, "b": 1500, "c": 7000}
    for _ in range(600):
        for caller, size in sizes.items():
            queue.add(Waiter(caller, caller, 1, random.randrange(size // 2, size), 0.0))
    cost: Counter[str] = Counter()
    dearest = 1 + max(sizes.values()) / 2048
    for _ in range(400):
        one = queue.pop(0.0)
        assert one is not None
        cost[one.item] += one.cost  # type: ignore[assignment]  # costs are no whole numbers
        assert max(cost[caller] for caller in sizes) - min(cost[caller] for caller in sizes) <= 2 * dearest
