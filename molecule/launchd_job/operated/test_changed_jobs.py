"""After changes, accidents and refusals: the job is the declared one, and runs once."""

from testinfra.host import Host

LABEL = "com.athena.service"


def test_it_runs_once_and_as_declared_at_last(host: Host) -> None:
    output = host.check_output("pgrep --count --full --uid _athena '/opt/athena/service.py first & second'")
    assert output == "1"


def test_launchd_and_the_disk_hold_nothing_else(host: Host) -> None:
    assert host.check_output("ls -A /Library/LaunchDaemons").splitlines() == [
        "com.athena.agent.log.plist",
        f"{LABEL}.log.plist",
        f"{LABEL}.plist",
    ]
    assert host.check_output("ls -A /var/db/athena/launchd").splitlines() == [LABEL]
    assert host.file(f"/var/db/athena/launchd/{LABEL}").content_string == "one\n"
