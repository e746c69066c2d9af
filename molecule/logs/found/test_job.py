"""The collector on a Mac: an account of its own that reads the jobs' logs by their group."""

from testinfra.host import Host

testinfra_hosts = ["ansible://macs"]


def test_the_collector_is_a_job_of_an_account_of_its_own(host: Host) -> None:
    pid = host.check_output("pgrep --full '^/opt/athena/log-collector/current/bin/otelcol '")
    status = dict(line.split(":\t", 1) for line in host.file(f"/proc/{pid}/status").content_string.splitlines())
    assert set(status["Uid"].split()) == {str(host.user("_athena_logs").uid)}
    assert set(status["Gid"].split()) == {"0"}, "wheel on a Mac, whose the logs are"


def test_what_waits_is_nobody_elses(host: Host) -> None:
    folder = host.file("/var/db/athena/log-collector")
    assert (folder.user, folder.mode) == ("_athena_logs", 0o700)
