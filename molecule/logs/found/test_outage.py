"""Loki is down for a while, and the collector is killed and started anew meanwhile: every line is there, and once."""

import time
from collections import Counter

import pytest
import yaml
from caller_on_the_host import LOKI, Caller
from testinfra.host import Host

testinfra_hosts = ["ansible://linux"]
# How long it is down here. What lets it be down for longer is in the configuration, which the last test reads.
SECONDS_DOWN = 45
SECONDS_BETWEEN = 1.5
TEN_MINUTES = 600
# Measured in the queue of this scenario, for lines of 250 bytes with what is said of them; and what 500 requests write.
BYTES_A_LINE = 400
LINES_A_SECOND = 1000
COLLECTOR = "athena-log-collector.service"


@pytest.fixture
def caller(host: Host) -> Caller:
    return Caller(host)


def written(host: Host) -> Counter[str]:
    """Return the lines that the proxy itself has written of these requests."""
    return Counter(host.check_output("grep -h outage- /var/lib/athena/logs/proxy.log").splitlines())


def test_an_outage_of_loki_loses_no_line(caller: Caller, host: Host) -> None:
    host.check_output("systemctl stop athena-loki.service")
    down, asked = time.monotonic(), 0
    restarts = iter([f"systemctl restart {COLLECTOR}", f"systemctl kill --signal KILL {COLLECTOR}"])
    while time.monotonic() - down < SECONDS_DOWN:
        assert caller.chat(f"outage-{asked}") == 200, "requests do not depend on Loki"
        asked += 1
        if time.monotonic() - down > SECONDS_DOWN / 3 * (2 if asked > SECONDS_DOWN / 3 else 1):
            command = next(restarts, None)
            if command:
                host.check_output(command)
        time.sleep(SECONDS_BETWEEN)
    host.check_output("systemctl start athena-loki.service")
    assert next(restarts, None) is None, "the collector was restarted, and killed"
    expected = written(host)
    assert sum(expected.values()) == 2 * asked

    assert wait_until_ready(caller)
    lines = caller.found('{app="proxy"} |= "outage-"', lambda lines: len(lines) >= len(expected))
    assert Counter(text for _, _, text in lines) == expected
    engine = caller.found('{app="engine"} |= "outage-"', lambda lines: len(lines) >= asked)
    assert len({labels["request_id"] for labels, *_ in engine}) == len(engine) == asked


def wait_until_ready(caller: Caller) -> bool:
    """Wait for Loki, which the collector tries again every half a minute at most."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            if caller.ask(f"{LOKI}/ready")[0] == 200:
                return True
        except AssertionError:  # nobody listens yet
            pass
        time.sleep(1)
    return False


def test_it_may_be_down_for_ten_minutes_and_more(host: Host) -> None:
    config = yaml.safe_load(host.file("/opt/athena/log-collector/config.yaml").content_string)
    exporter = config["exporters"]["otlp_http/loki"]
    assert exporter["retry_on_failure"]["max_elapsed_time"] == 0, "it never gives a line up"
    queue = exporter["sending_queue"]
    assert (queue["storage"], queue["sizer"], queue["block_on_overflow"]) == ("file_storage", "bytes", True)
    assert queue["queue_size"] > TEN_MINUTES * LINES_A_SECOND * BYTES_A_LINE, "ten minutes fit into it"
    for receiver in config["receivers"].values():
        assert receiver["storage"] == "file_storage", "what is read is known after a restart"
        assert receiver["retry_on_failure"]["max_elapsed_time"] == 0, "beyond that, lines wait where they came from"
