"""How many pods each service is to have, by what an inventory says of some of them."""

from typing import Any

import pytest
from playing import evaluated


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({}, {"admin": 2, "proxy": 2, "orchestrator": 2}),
        ({"proxy": 3}, {"admin": 2, "proxy": 3, "orchestrator": 2}),
        ({"admin": 1, "proxy": 1, "orchestrator": 1}, {"admin": 1, "proxy": 1, "orchestrator": 1}),
    ],
)
def test_of_what_it_does_not_name_there_are_two(said: dict[str, int], wanted: dict[str, int]) -> None:
    assert evaluated("production", "cluster", "athena_declared_replicas", athena_replicas=said) == wanted


def test_the_example_of_staging_has_one_of_each() -> None:
    declared: Any = evaluated("staging", "cluster", "athena_declared_replicas")
    assert declared == {"admin": 1, "proxy": 1, "orchestrator": 1}
