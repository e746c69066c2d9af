"""The decision of `athena backends drain`: what the metrics of the proxies say."""

import pytest

from athena.cli.draining import Seen, left, read

METRICS = """\
# TYPE athena_backend_in_use gauge
athena_backend_in_use{backend_id="1",model="phi",provider="mlx"} 2.0
athena_backend_in_use{backend_id="default",model="phi",provider="ollama"} 5.0
# TYPE athena_backend_queued gauge
athena_backend_queued{backend_id="1",model="phi",provider="mlx"} 1.0
athena_backend_queued{backend_id="2",model="phi",provider="mlx"} 0.0
# TYPE athena_configuration_version gauge
athena_configuration_version 7.0
"""


def test_requests_that_are_served_and_that_wait_are_counted_by_backend() -> None:
    assert read(METRICS) == Seen(7, {"1": 3, "2": 0, "default": 5})


def test_metrics_of_something_else_are_not_taken_for_a_proxys() -> None:
    with pytest.raises(ValueError, match="is it a model proxy"):
        read("# TYPE up gauge\nup 1.0\n")


@pytest.mark.parametrize(
    ("seen", "reasons"),
    [
        ({}, []),
        ({"a": Seen(7, {}), "b": Seen(8, {"1": 0, "3": 4})}, []),
        ({"a": Seen(6, {})}, ["a routes by version 6 of the registry, which is at 7"]),
        ({"a": Seen(7, {"1": 1})}, ["a has 1 request there"]),
        ({"b": "no route", "a": Seen(9, {"1": 1, "2": 2})}, ["a has 3 requests there", "b does not say: no route"]),
        (
            {"a": Seen(6, {"2": 2})},
            ["a routes by version 6 of the registry, which is at 7", "a has 2 requests there"],
        ),
    ],
)
def test_backends_are_drained_once_every_proxy_says_so(seen: dict[str, Seen | str], reasons: list[str]) -> None:
    assert left(seen, {1, 2}, 7) == reasons
