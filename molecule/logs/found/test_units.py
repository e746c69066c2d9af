"""What systemd's journal says of a unit that ends over and over is what `status` reads there."""

import pytest
import yaml
from loading import ROOT, load
from scratch import wait_until
from testinfra.host import Host

testinfra_hosts = ["ansible://linux"]
UNIT = "athena-mlx-of-a-test.service"
WITHIN_SECONDS = 60.0


@pytest.fixture
def journal() -> list[str]:
    """The command that `status` asks hosts with engines by."""
    plays = yaml.safe_load((ROOT / "playbooks/status.yml").read_text())
    (look,) = (play for play in plays if play["hosts"] == "engines")
    argv: list[str] = look["tasks"][0]["ansible.builtin.command"]["argv"]
    return argv


def test_an_engines_unit_that_ends_over_and_over_is_told(host: Host, journal: list[str]) -> None:
    restarts = load("plugins/filter/restarts.py")

    def told() -> list[str]:
        lines = host.check_output(" ".join(["%s"] * len(journal)), *journal)
        problems: list[str] = restarts.restart_problems(restarts.unit_restarts(lines, "host-1"))
        return problems

    assert told() == []
    host.check_output(
        "systemd-run --unit %s --property Restart=always --property RestartSec=0.5 sh -c %s", UNIT, "sleep 0.5; exit 3"
    )
    try:
        wait_until(lambda: told() != [], WITHIN_SECONDS)
        (problem,) = told()
        assert problem.startswith(f"{UNIT} on host-1 restarts over and over: ")
        assert "its last end: exited, 3 (see `journalctl -u" in problem
    finally:
        host.check_output("systemctl stop %s", UNIT)
