"""The Mac as its operator finds it: awake, with memory for its models, its engines open to those who may use them."""

import json

from testinfra.host import Host

ANCHOR = "com.apple/athena-engines"
LIMIT = "iogpu.wired_limit_mb"


def test_it_stays_awake_and_comes_back_after_a_power_cut(host: Host) -> None:
    lines = host.check_output("pmset -g custom").splitlines()[1:]
    settings = {line.rsplit(maxsplit=1)[0].strip(): line.split()[-1] for line in lines}
    wanted = {"sleep": "0", "disksleep": "0", "displaysleep": "10", "powernap": "0", "womp": "1", "autorestart": "1"}
    assert wanted.items() <= settings.items()


def test_the_gpu_may_hold_all_but_the_reserve_now_and_after_a_boot(host: Host) -> None:
    memory = int(host.check_output("sysctl -n hw.memsize")) // 2**20
    reserve = 8192 if host.file("/opt/mac").exists else 3072  # on a real Mac
    assert host.check_output(f"sysctl -n {LIMIT}") == str(memory - reserve)
    plist = host.file("/Library/LaunchDaemons/com.athena.wired-limit.plist")
    assert (plist.user, plist.mode) == ("root", 0o644)
    assert f"<string>{LIMIT}={memory - reserve}</string>" in plist.content_string


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


def test_later_runs_know_the_mac(host: Host) -> None:
    facts = json.loads(host.file("/etc/ansible/facts.d/mac_host.fact").content_string)
    assert facts["chip"] == host.check_output("sysctl -n machdep.cpu.brand_string")
    assert facts["model"] == host.check_output("sysctl -n hw.model")
    assert facts["cores"] == int(host.check_output("sysctl -n hw.ncpu"))
    assert facts["memory_mib"] == int(host.check_output("sysctl -n hw.memsize")) // 2**20
    assert facts["wired_limit_mib"] == int(host.check_output(f"sysctl -n {LIMIT}"))
    assert facts["macos"] == host.check_output("sw_vers -productVersion")
    assert facts["build"] == host.check_output("sw_vers -buildVersion")
    assert 2048 < facts["models_mib"] < facts["wired_limit_mib"]
