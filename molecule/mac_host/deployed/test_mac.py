"""The Mac as its operator finds it: awake, with memory for its models, its engines open to those who may use them."""

import json

import pytest
from testinfra.host import Host

ANCHOR = "com.apple/athena-engines"


def test_it_stays_awake_and_comes_back_after_a_power_cut(host: Host) -> None:
    lines = host.check_output("pmset -g custom").splitlines()[1:]
    settings = {line.rsplit(maxsplit=1)[0].strip(): line.split()[-1] for line in lines}
    wanted = {"sleep": "0", "disksleep": "0", "displaysleep": "10", "powernap": "0", "womp": "1", "autorestart": "1"}
    assert wanted.items() <= settings.items()


def test_only_what_differed_was_set(host: Host) -> None:
    journal = [json.loads(line) for line in host.file("/var/db/mac/journal").content_string.splitlines()]
    [call] = [entry["arguments"] for entry in journal if entry["tool"] == "pmset" and entry["arguments"][0] != "-g"]
    assert sorted(call[1::2]) == ["autorestart", "disksleep", "powernap", "sleep"]


def test_the_gpu_may_hold_all_but_the_reserve_now_and_after_a_boot(host: Host) -> None:
    assert host.check_output("sysctl -n iogpu.wired_limit_mb") == str(98304 - 8192)
    plist = host.file("/Library/LaunchDaemons/com.athena.wired-limit.plist")
    assert (plist.user, plist.mode) == ("root", 0o644)
    assert "<string>iogpu.wired_limit_mb=90112</string>" in plist.content_string


def test_the_engines_are_open_to_the_declared_networks_and_to_the_mac_itself(host: Host) -> None:
    shown = host.check_output(f"pfctl -a {ANCHOR} -s rules").splitlines()
    rules = [line.partition(" label")[0] for line in shown if "label" in line]
    assert [rule for rule in rules if "11434" in rule] == [
        "pass in quick on lo0 proto tcp from any to any port = 11434 flags any no state",
        "pass in quick proto tcp from <athena_callers> to any port = 11434 flags any no state",
        "block return in quick proto tcp from any to any port = 11434",
    ]
    table = "table <athena_callers> const { 192.168.10.0/24 fd00:10::/64 }"
    assert table in host.file("/etc/pf.anchors/com.athena.engines").content_string
    assert "Status: Enabled" in host.check_output("pfctl -s info")
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
def test_later_runs_know_the_mac(host: Host, name: str, value: str | int) -> None:
    assert json.loads(host.file("/etc/ansible/facts.d/mac_host.fact").content_string)[name] == value
