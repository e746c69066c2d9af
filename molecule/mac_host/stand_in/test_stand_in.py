"""What only a host that stands for a Mac can tell: which calls its tools had, and the figures of that Mac."""

import json

import pytest
from testinfra.host import Host


def test_only_what_differed_was_set(host: Host) -> None:
    journal = [json.loads(line) for line in host.file("/var/db/mac/journal").content_string.splitlines()]
    [call] = [entry["arguments"] for entry in journal if entry["tool"] == "pmset" and entry["arguments"][0] != "-g"]
    assert sorted(call[1::2]) == ["autorestart", "disksleep", "powernap", "sleep"]


def test_the_filter_is_held_enabled_once(host: Host) -> None:
    assert host.check_output("pfctl -s References") == "1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chip", "Apple M2 Ultra"),
        ("model", "Mac14,14"),
        ("cores", 24),
        ("memory_mib", 98304),
        ("wired_limit_mib", 90112),
        ("macos", "15.6"),
        ("build", "24G84"),
        ("models_mib", 12339),
    ],
)
def test_its_figures_are_those_of_the_mac_that_it_stands_for(host: Host, name: str, value: str | int) -> None:
    assert json.loads(host.file("/etc/ansible/facts.d/mac_host.fact").content_string)[name] == value
