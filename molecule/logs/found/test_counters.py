"""The figures of Loki and of collectors that alerts judge: a real loss makes them, by these names and labels."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from caller_on_the_host import FOUND_WITHIN_SECONDS, LOKI, Caller
from counters import DISCARDED, EXPORTER, NOT_SENT, QUEUE_CAPACITY, QUEUE_SIZE, counted
from scratch import wait_until
from testinfra.host import Host

testinfra_hosts = ["ansible://linux"]
COLLECTOR, LOKIS = "http://127.0.0.1:8889/metrics", f"{LOKI}/metrics"
TOO_OLD = timedelta(days=30)


@pytest.fixture
def caller(host: Host) -> Caller:
    return Caller(host)


def test_a_queue_is_judged_by_its_size_and_its_room(caller: Caller) -> None:
    sizes = {name: counted(caller, COLLECTOR, name) for name in (QUEUE_SIZE, QUEUE_CAPACITY)}
    for found in sizes.values():
        assert [labels for labels in found if EXPORTER in labels], sizes
    (room,) = (value for labels, value in sizes[QUEUE_CAPACITY].items() if EXPORTER in labels)
    assert room > 0


def test_a_line_that_loki_refuses_for_good_is_counted_by_loki_and_by_the_collector(caller: Caller, host: Host) -> None:
    def refused() -> float:
        found = counted(caller, LOKIS, DISCARDED)
        return sum(value for labels, value in found.items() if 'reason="greater_than_max_sample_age"' in labels)

    def not_sent() -> float:
        return sum(value for labels, value in counted(caller, COLLECTOR, NOT_SENT).items() if EXPORTER in labels)

    before = refused(), not_sent()
    line = json.dumps({"timestamp": (datetime.now(UTC) - TOO_OLD).isoformat(), "event": f"old-{time.time_ns()}"})
    host.check_output("sh -c %s", f"echo '{line}' >>/var/lib/athena/logs/too-old.log")
    wait_until(lambda: refused() > before[0] and not_sent() > before[1], 2 * FOUND_WITHIN_SECONDS)
