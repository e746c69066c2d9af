"""Loki is down for ten minutes, the collector is killed and started anew meanwhile: every line is there."""

import time
from collections import Counter

import pytest
import yaml
from caller_on_the_host import LOKI, Caller, Line
from testinfra.host import Host

testinfra_hosts = ["ansible://linux"]
SECONDS_DOWN = 600
SECONDS_BETWEEN = 1.5
# The collector tries again every half a minute, give or take a half of that, and each of its two senders by itself.
SENT_WITHIN_SECONDS = 120.0
# Measured in the queue of this scenario, for lines of 250 bytes with what is said of them; and what 500 requests write.
BYTES_A_LINE = 400
LINES_A_SECOND = 1000
# What a killed collector was just reading it reads again: the two lines of a request, at each of two ends.
SENT_TWICE = 4
COLLECTOR = "athena-log-collector.service"


@pytest.fixture
def caller(host: Host) -> Caller:
    return Caller(host)


def written(host: Host, name: str) -> Counter[str]:
    """Return the lines that the proxy itself has written of these requests."""
    return Counter(host.check_output(f"grep -h {name} /var/lib/athena/logs/proxy.log").splitlines())


@pytest.mark.timeout(SECONDS_DOWN + 600)
def test_ten_minutes_without_loki_lose_no_line(caller: Caller, host: Host) -> None:
    host.check_output("systemctl stop athena-loki.service")
    down, asked, name = time.monotonic(), 0, f"outage-{time.time_ns()}-"
    accidents = [
        (SECONDS_DOWN / 3, f"systemctl restart {COLLECTOR}"),
        (SECONDS_DOWN * 2 / 3, f"systemctl kill --signal KILL {COLLECTOR}"),
    ]
    while (passed := time.monotonic() - down) < SECONDS_DOWN:
        assert caller.chat(f"{name}{asked}") == 200, "requests do not depend on Loki"
        asked += 1
        if accidents and passed > accidents[0][0]:
            host.check_output(accidents.pop(0)[1])
        time.sleep(SECONDS_BETWEEN)
    assert not accidents, "the collector was restarted, and killed"
    host.check_output("systemctl start athena-loki.service")
    expected = written(host, name)
    assert sum(expected.values()) == 2 * asked

    assert wait_until_ready(caller)
    lines = caller.found(
        f'{{app="proxy"}} |= "{name}"',
        lambda lines: {text for _, _, text in lines} >= expected.keys(),
        SENT_WITHIN_SECONDS,
    )
    found = Counter(text for _, _, text in lines)
    assert found.keys() == expected.keys()
    assert (found - expected).total() <= SENT_TWICE
    engine = caller.found(
        f'{{app="engine"}} |= "{name}"', lambda lines: len(requests_of(lines)) >= asked, SENT_WITHIN_SECONDS
    )
    assert len(requests_of(engine)) == asked <= len(engine) <= asked + SENT_TWICE


def requests_of(lines: list[Line]) -> set[str]:
    return {labels["request_id"] for labels, *_ in lines}


def wait_until_ready(caller: Caller) -> bool:
    """Wait for Loki, which first reads what it had written down."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            if caller.ask(f"{LOKI}/ready")[0] == 200:
                return True
        except AssertionError:  # nobody listens yet
            pass
        time.sleep(1)
    return False


def test_ten_minutes_of_a_busy_proxy_fit_into_the_queue(host: Host) -> None:
    config = yaml.safe_load(host.file("/opt/athena/log-collector/config.yaml").content_string)
    exporter = config["exporters"]["otlp_http/loki"]
    assert exporter["retry_on_failure"]["max_elapsed_time"] == 0, "it never gives a line up"
    queue = exporter["sending_queue"]
    assert (queue["storage"], queue["sizer"], queue["block_on_overflow"]) == ("file_storage", "bytes", True)
    assert queue["queue_size"] > SECONDS_DOWN * LINES_A_SECOND * BYTES_A_LINE
    for name in config["service"]["pipelines"]["logs"]["receivers"]:
        receiver = config["receivers"][name]
        assert receiver["storage"] == "file_storage", "what is read is known after a restart"
        assert receiver["retry_on_failure"]["max_elapsed_time"] == 0, "beyond that, lines wait where they came from"
