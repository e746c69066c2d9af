"""The traces of the services, which the collector of their host hands on; also after their receiver was away."""

import secrets
import time

import pytest
from caller_on_the_host import PROXY, Caller
from testinfra.host import Host

testinfra_hosts = ["ansible://linux"]
pytestmark = pytest.mark.timeout(600)
TAKEN = "/var/lib/athena/traces"
QUEUE = "/var/lib/athena-log-collector/queue"
# The collector tries again every half a minute, give or take a half of that.
SENT_WITHIN_SECONDS = 240.0
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def caller(host: Host) -> Caller:
    return Caller(host)


def asked(caller: Caller) -> str:
    """Ask the proxy within a trace, and return the trace's id, whose bytes are letters and digits that `grep` finds."""
    trace = secrets.token_hex(8).encode().hex()
    status, text = caller.ask(f"{PROXY}/v1/chat/completions", BODY, traceparent=f"00-{trace}-{secrets.token_hex(8)}-01")
    assert status == 200, text
    return trace


def taken(host: Host, trace: str) -> bool:
    """Wait until the receiver has taken spans of a trace; return whether it has."""
    return succeeds(host, f"grep '^/v1/traces .*{trace}' {TAKEN}")


def waits(host: Host, trace: str) -> bool:
    """Wait until spans of a trace are in the queue on the collector's disk; return whether they are."""
    return succeeds(host, f"grep --recursive --quiet --text --fixed-strings {bytes.fromhex(trace).decode()} {QUEUE}")


def succeeds(host: Host, command: str) -> bool:
    """Run a command until it succeeds; return whether it does within the time."""
    until = time.monotonic() + SENT_WITHIN_SECONDS
    while host.run(command).rc != 0:
        if time.monotonic() > until:
            return False
        time.sleep(1)
    return True


def test_the_trace_of_a_request_gets_to_who_takes_traces(caller: Caller, host: Host) -> None:
    assert taken(host, asked(caller))


def test_while_nobody_takes_them_traces_wait(caller: Caller, host: Host) -> None:
    host.check_output("systemctl stop receiver.service")
    trace = asked(caller)
    assert waits(host, trace)
    host.check_output("systemctl kill --signal KILL athena-log-collector.service")
    host.check_output("systemctl start receiver.service")
    assert taken(host, trace)
