"""After the removal: nothing runs and nothing is left but logs."""

import pytest
from testinfra.host import Host


def test_nothing_runs(host: Host) -> None:
    assert host.run("pgrep --full --uid _athena,person /opt/athena/service.py").rc == 1
    assert host.check_output("launchctl list") == "PID\tStatus\tLabel"


@pytest.mark.parametrize(
    "folder",
    ["/Library/LaunchDaemons", "/Users/person/Library/LaunchAgents", "/etc/newsyslog.d", "/var/db/athena/launchd"],
)
def test_no_file_is_left(host: Host, folder: str) -> None:
    assert host.check_output(f"ls -A {folder}") == ""


def test_the_logs_are_kept(host: Host) -> None:
    assert "ended" in host.file("/Library/Logs/Athena/com.athena.service.log").content_string
