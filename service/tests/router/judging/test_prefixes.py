"""Which host has read the beginning of a prompt before."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.router.judging.prefixes import Prefixes, digests


def text(seed: int, length: int) -> bytes:
    """Return so many bytes, others for each seed."""
    return Random(seed).randbytes(length)  # noqa: S311 - repeatable, nothing secret


@given(st.integers(0, 60_000), st.integers(0, 20_000), st.integers(0, 20_000))
def test_two_prompts_share_the_digests_of_what_they_share_and_no_others(common: int, one: int, other: int) -> None:
    start = text(1, common)
    first, second = set(digests(start + text(2, one))), set(digests(start + text(3, other)))
    assert {size for size, _ in first & second} == {size for size, _ in first if size <= common} & {
        size for size, _ in second
    }


@pytest.mark.parametrize("seed", range(200))
def test_the_host_that_served_the_last_turn_has_at_least_two_thirds_of_it(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - repeatable, nothing secret
    prefixes = Prefixes()
    body = text(seed, random.randint(800, 300_000))
    prefixes.remember("a", digests(body))
    turn = digests(body + text(-seed - 1, 500))
    warm = prefixes.warm_bytes("a", turn, kept=1)
    assert len(body) * 0.66 <= warm <= len(body)
    assert prefixes.warm_bytes("b", turn, kept=1) == 0
    assert prefixes.warm_bytes("a", digests(text(seed + 1, 5000)), kept=1) == 0


@given(st.integers(1, 12), st.integers(0, 15))
def test_what_a_host_served_since_pushes_it_out(kept: int, since: int) -> None:
    prefixes = Prefixes()
    found = digests(text(0, 4000))
    prefixes.remember("a", found)
    for number in range(since):
        prefixes.remember("a", digests(text(number + 1, 4000)))
        prefixes.remember("b", digests(text(number + 100, 4000)))
    assert (prefixes.warm_bytes("a", found, kept=kept) > 0) == (since < kept)


def test_a_conversation_that_moved_is_where_it_was_last() -> None:
    prefixes = Prefixes()
    found = digests(text(0, 4000))
    prefixes.remember("a", found)
    prefixes.remember("b", found)
    assert prefixes.warm_bytes("a", found, kept=10) == 0
    assert prefixes.warm_bytes("b", found, kept=10) > 0


@given(st.integers(1, 50), st.lists(st.integers(0, 30), max_size=60))
def test_the_table_is_bounded(limit: int, seeds: list[int]) -> None:
    prefixes = Prefixes(limit)
    for seed in seeds:
        prefixes.remember("a", digests(text(seed, 3000)))
        assert len(prefixes) <= limit
