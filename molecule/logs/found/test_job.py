"""The collector on a Mac: an account of its own that reads the jobs' logs by their group."""

import time

import yaml
from caller_on_the_host import FOUND_WITHIN_SECONDS, Caller
from scratch import wait_until
from testinfra.host import Host

testinfra_hosts = ["ansible://macs"]
LOG = "/Library/Logs/Athena/com.athena.mlx.tiny.log"
JOB = "com.athena.log-collector"
PROCESS = "pgrep --full '^/opt/athena/log-collector/current/bin/otelcol '"


def test_the_collector_is_a_job_of_an_account_of_its_own(host: Host) -> None:
    pid = host.check_output(PROCESS)
    status = dict(line.split(":\t", 1) for line in host.file(f"/proc/{pid}/status").content_string.splitlines())
    assert set(status["Uid"].split()) == {str(host.user("_athena_logs").uid)}
    assert set(status["Gid"].split()) == {"0"}, "wheel on a Mac, whose the logs are"


def test_what_waits_is_nobody_elses(host: Host) -> None:
    folder = host.file("/var/db/athena/log-collector")
    assert (folder.user, folder.mode) == ("_athena_logs", 0o700)


def test_what_is_moved_aside_while_the_collector_is_away_is_read_and_once(host: Host) -> None:
    config = yaml.safe_load(host.file("/opt/athena/log-collector/config.yaml").content_string)
    loki = config["exporters"]["otlp_http/loki"]["endpoint"].removesuffix("/otlp")
    caller, name = Caller(host, loki), f"aside-{time.time_ns()}"
    query = f'{{app="mlx.tiny"}} |= "{name}"'

    def write(*numbers: int) -> None:
        host.check_output(f"printf '{name} %s of a job\\n' {' '.join(map(str, numbers))} >>{LOG}")

    def found(most: int) -> list[str]:
        lines = caller.found(query, lambda lines: len(lines) >= most)
        return sorted(text for *_, text in lines)

    def expected(most: int) -> list[str]:
        return sorted(f"{name} {number} of a job" for number in range(most))

    # As it is before the first time: no earlier run of this test has left anything aside.
    host.check_output(f"rm -f {LOG}.past {LOG}.past.0.gz")
    write(*range(50))
    assert found(50) == expected(50)
    host.check_output(f"launchctl bootout system/{JOB}")
    wait_until(lambda: host.run(PROCESS).rc != 0, FOUND_WITHIN_SECONDS)
    # As launchd_job has a large log emptied, and newsyslog compress what was in it: twice.
    write(*range(50, 100))
    host.check_output(f"sh -c 'cat {LOG} >>{LOG}.past && true >{LOG}'")
    host.check_output(f"gzip --stdout {LOG}.past >{LOG}.past.0.gz")
    write(*range(100, 150))
    host.check_output(f"sh -c 'cat {LOG} >{LOG}.past && true >{LOG}'")
    write(*range(150, 200))
    host.check_output(f"chown daemon:0 {LOG}.past {LOG}.past.0.gz")
    host.check_output(f"chmod 640 {LOG}.past {LOG}.past.0.gz")
    host.check_output(f"launchctl bootstrap system /Library/LaunchDaemons/{JOB}.plist")
    assert found(200) == expected(200)
    write(200)
    assert found(201) == expected(201)
