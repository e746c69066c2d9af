"""The collector is stopped in the middle of a compressed file: it goes on there, and no line is lost."""

import json
import time
from functools import partial
from urllib.parse import urlencode

import pytest
import yaml
from caller_on_the_host import MOST_LINES, Caller
from scratch import wait_until
from testinfra.host import Host

testinfra_hosts = ["ansible://linux", "ansible://macs"]
# It takes some seconds to read so many. One is of each millisecond, and so many are looked for at once: fewer than Loki
# shows, though each is there twice.
LINES = 100_000
AT_ONCE = MOST_LINES * 2 // 5
WITHIN_SECONDS = 300.0
METRICS = "http://127.0.0.1:8889/metrics"
ACCEPTED = "otelcol_receiver_accepted_log_records"
PROCESS = "pgrep --full '^/opt/athena/log-collector/current/bin/otelcol '"
JOB = "com.athena.log-collector"
# As newsyslog makes them.
WRITE = (
    "import datetime, gzip, json, os, sys\n"
    "path, name, first, lines = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])\n"
    "def line(number):\n"
    "    time = datetime.datetime.fromtimestamp((first + number) / 1000, datetime.UTC).isoformat()\n"
    "    return json.dumps({'timestamp': time, 'event': name, 'number': number}) + '\\n'\n"
    "with gzip.open(path + '.new', 'wt') as file:\n"
    "    file.writelines(line(number) for number in range(lines))\n"
    "os.chmod(path + '.new', 0o644)\n"
    "os.rename(path + '.new', path)\n"
)


def accepted(caller: Caller) -> int:
    """Return how many lines of files the collector has handed over."""
    _, text = caller.ask(METRICS)
    lines = [line for line in text.splitlines() if line.startswith(ACCEPTED) and 'receiver="file_log/by_name"' in line]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def are_there(caller: Caller, loki: str, name: str, first: int, begin: int) -> bool:
    """Return whether lines are in Loki, AT_ONCE from a number on; the first of all is of that time in milliseconds."""
    numbers = range(begin, begin + AT_ONCE)
    start, end = ((first + number) * 1_000_000 for number in (numbers.start, numbers.stop))
    query = f'{{app="put-aside"}} |= "{name}"'
    arguments = {"query": query, "limit": MOST_LINES, "start": start, "end": end}
    status, text = caller.ask(f"{loki}/loki/api/v1/query_range?{urlencode(arguments)}")
    assert status == 200, text
    streams = json.loads(text)["data"]["result"]
    return {json.loads(value[1])["number"] for stream in streams for value in stream["values"]} == set(numbers)


@pytest.mark.timeout(3 * WITHIN_SECONDS)
def test_one_that_is_stopped_in_the_middle_of_a_compressed_file_loses_no_line(host: Host) -> None:
    config = yaml.safe_load(host.file("/opt/athena/log-collector/config.yaml").content_string)
    loki = config["exporters"]["otlp_http/loki"]["endpoint"].removesuffix("/otlp")
    mac = host.file("/Library/Logs/Athena").exists
    file = ("/Library/Logs/Athena/com.athena." if mac else "/var/lib/athena/logs/") + "put-aside.log.past.0.gz"
    caller, name, first = Caller(host), f"stopped-{time.time_ns()}", int(time.time() * 1000) - LINES
    before = accepted(caller)
    host.check_output("python3 -c %s %s %s %s %s", WRITE, file, name, str(first), str(LINES))
    wait_until(lambda: accepted(caller) > before, WITHIN_SECONDS)
    if mac:
        host.check_output(f"launchctl bootout system/{JOB}")
        wait_until(lambda: host.run(PROCESS).rc != 0, WITHIN_SECONDS)
        host.check_output(f"launchctl bootstrap system /Library/LaunchDaemons/{JOB}.plist")
    else:
        host.check_output("systemctl restart athena-log-collector.service")
    for begin in range(0, LINES, AT_ONCE):
        wait_until(partial(are_there, caller, loki, name, first, begin), WITHIN_SECONDS)


def test_one_that_was_stopped_has_not_failed(host: Host) -> None:
    if not host.file("/Library/Logs/Athena").exists:
        assert host.run("systemctl is-failed athena-log-collector.service").stdout.strip() == "active"
        host.check_output("systemctl stop athena-log-collector.service")
        stopped = host.run("systemctl is-failed athena-log-collector.service").stdout.strip()
        host.check_output("systemctl start athena-log-collector.service")
        assert stopped == "inactive"
