"""How the role `mac_host` reads a Mac's power settings, and what it takes for a network and a port."""

from typing import Any

import pytest
from loading import load

LAPTOP = """\
Battery Power:
 powernap             0
 sleep                1
 displaysleep         2
AC Power:
 Sleep On Power Button 1
 powernap             1
 sleep                0
 displaysleep         10
 womp                 1
"""


power = load("roles/mac_host/library/mac_power.py")
packet_filter = load("roles/mac_host/test_plugins/packet_filter.py")


def test_the_settings_of_each_power_source_are_read() -> None:
    sources = power.parse(LAPTOP)
    assert sorted(sources) == ["AC Power", "Battery Power"]
    assert sources["AC Power"]["Sleep On Power Button"] == "1"
    assert "womp" not in sources["Battery Power"]


@pytest.mark.parametrize(
    ("settings", "set_", "before"),
    [
        ({"sleep": 0}, {"sleep": "0"}, {"sleep": "1"}),
        ({"womp": 1, "displaysleep": 10}, {"displaysleep": "10"}, {"displaysleep": "2"}),
        ({"womp": 1}, {}, {}),
    ],
    ids=str,
)
def test_a_setting_is_set_where_any_power_source_has_another(
    settings: dict[str, Any], set_: dict[str, str], before: dict[str, str]
) -> None:
    assert power.differing(settings, power.parse(LAPTOP)) == (set_, before)


def test_a_setting_that_the_mac_does_not_have_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(power.PowerError, match=r"no setting displaslep, but displaysleep. Nothing was changed"):
        power.judge({"displaslep": 1}, power.parse(LAPTOP))
    with pytest.raises(power.PowerError, match="sleep must be a number"):
        power.judge({"sleep": "never"}, power.parse(LAPTOP))


@pytest.mark.parametrize("text", ["10.0.0.0/8", "192.168.10.7", "fd00:10::/64", "::1"])
def test_networks_and_addresses_are_networks(text: str) -> None:
    assert packet_filter.is_network(text)


@pytest.mark.parametrize("value", ["10.0.0.0/33", "office", "", "10.0.0.0/8 }", 10, None])
def test_what_else_there_is_is_no_network(value: object) -> None:
    assert not packet_filter.is_network(value)


@pytest.mark.parametrize("value", [1, 65535, "8080", "8080:8099", "8080:8080"])
def test_ports_and_ranges_are_ports(value: object) -> None:
    assert packet_filter.is_port(value)


@pytest.mark.parametrize("value", [0, 65536, "http", "8099:8080", "1:2:3", "", "80 }", -1, None])
def test_what_else_there_is_is_no_port(value: object) -> None:
    assert not packet_filter.is_port(value)
