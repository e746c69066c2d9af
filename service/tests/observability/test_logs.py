"""What a process writes to its log, and when; and what a program that uses the library gets instead."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from structlog.testing import capture_logs

from athena.observability import logs
from athena.observability.lines import LineWriter
from athena.observability.requests import FastRequestLog, RequestLog, StructuredRequestLog
from athena.observability.stamp import Stamp
from athena.router.call import Call
from athena.router.types import Backend, BackendType, Operation, Request, Target

ENDPOINT = "http://127.0.0.1:11434"
BACKEND = Backend(model_name="m", backend_type=BackendType.AUTO, endpoint_url=ENDPOINT, id=7)
TARGET = Target(backend=BACKEND, engine=BackendType.OLLAMA, endpoint_url=ENDPOINT)


def request(model: str, request_id: str = "0f1e2d3c") -> Call:
    call = Call.of(Request(operation=Operation.CHAT, model=model))
    call.request_id = request_id
    return call


class Told:
    """A request log into a pipe, and what it wrote."""

    def __init__(self) -> None:
        self._reader, descriptor = os.pipe()
        self.log: RequestLog = FastRequestLog(LineWriter(descriptor, notice=lambda _: b""), "proxy", Stamp())

    def line(self) -> dict[str, Any]:
        text = os.read(self._reader, 1 << 20)
        assert text.endswith(b"\n")
        assert text.count(b"\n") == 1
        line: dict[str, Any] = json.loads(text)
        return line


@pytest.mark.parametrize(
    "request_",
    [
        request("llama-3.1-8b"),
        request('a "model"\\\nof\u2028two lines %s', 'an "id"\n'),
        request("a very long name" * 100),
    ],
    ids=["usual", "hostile", "long"],
)
def test_both_ways_of_telling_a_request_tell_the_same(request_: Call) -> None:
    told = Told()
    with capture_logs() as captured:
        slow = StructuredRequestLog()
        slow.routing(request_, TARGET)
        slow.completed(request_, TARGET, 0.123456, 17)
        slow.completed(request_, TARGET, 2.0, None)
    fast = []
    told.log.routing(request_, TARGET)
    fast.append(told.line())
    told.log.completed(request_, TARGET, 0.123456, 17)
    fast.append(told.line())
    told.log.completed(request_, TARGET, 2.0, None)
    fast.append(told.line())
    for line in fast:
        assert line.pop("service") == "proxy"
        assert len(line.pop("timestamp")) == len("2026-01-31T10:00:00.123Z")
        line["log_level"] = line.pop("level")
    assert fast == json.loads(json.dumps(captured))


def test_a_call_without_an_id_is_told_by_the_programs_own_logging() -> None:
    told = Told()
    with capture_logs() as captured:
        told.log.routing(request("m", ""), TARGET)
        told.log.completed(request("m", ""), TARGET, 1.0, 3)
    assert [record["event"] for record in captured] == ["routing_llm_request", "llm_request_completed"]
    assert all("request_id" not in record for record in captured)


def test_callers_who_make_up_models_do_not_fill_the_memory() -> None:
    log = FastRequestLog(LineWriter(os.open(os.devnull, os.O_WRONLY), notice=lambda _: b""), "proxy", Stamp())
    for number in range(3000):
        log.routing(request(f"made-up-{number}"), TARGET)
    assert len(log._heads) <= 1024


def test_without_a_configured_log_requests_are_told_through_structlog() -> None:
    with capture_logs() as captured:
        logs.request_log().routing(request("m"), TARGET)
    assert captured == [
        {
            "event": "routing_llm_request",
            "log_level": "info",
            "model": "m",
            "backend_type": "ollama",
            "endpoint": ENDPOINT,
            "request_id": "0f1e2d3c",
        }
    ]


PREAMBLE = """
import asyncio, logging, os, sys
import msgspec, structlog
from athena.observability import logs
from athena.router.types import Backend, BackendType, Target

class Request(msgspec.Struct):
    model: str = "m"
    request_id: str = "some-id"
    span: None = None

    @property
    def names(self):
        return {"request_id": self.request_id}

backend = Backend(model_name="m", backend_type=BackendType.MLX, endpoint_url="http://127.0.0.1:1")
target = Target(backend=backend, engine=BackendType.MLX, endpoint_url="http://127.0.0.1:1")
log = structlog.get_logger()
"""


def lines_of(program: str) -> list[dict[str, Any]]:
    """Run a program to its end; return its log."""
    done = subprocess.run([sys.executable, "-c", PREAMBLE + program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_lines_made_in_any_way_keep_their_order_and_reach_the_log_before_the_process_ends() -> None:
    lines = lines_of("""
logs.configure("proxy")
async def main():
    requests = logs.request_log()
    log.info("first", password_length=3)
    requests.routing(Request(), target)
    logging.getLogger("library").info("third %s", "of the standard library")
    requests.completed(Request(), target, 1.5, 7)
    log.debug("never")
    sys.exit(0)
asyncio.run(main())
""")
    assert [line["event"] for line in lines] == [
        "first",
        "routing_llm_request",
        "third of the standard library",
        "llm_request_completed",
    ]
    assert {line["service"] for line in lines} == {"proxy"}
    assert {line["level"] for line in lines} == {"info"}
    times = [line["timestamp"] for line in lines]
    assert times == sorted(times)


def test_a_level_above_info_leaves_requests_out() -> None:
    lines = lines_of("""
logs.configure("proxy", "warning")
logs.request_log().routing(Request(), target)
logs.request_log().completed(Request(), target, 1.5, None)
log.warning("kept")
""")
    assert [line["event"] for line in lines] == ["kept"]


def test_the_requests_of_an_http_client_are_told_at_debug_alone() -> None:
    program = """
for level in "info", "debug":
    logs.configure("agent", level)
    logging.getLogger("httpx").info("HTTP Request: POST http://127.0.0.1:8080 %s", level)
"""
    assert [line["event"].split()[-1] for line in lines_of(program)] == ["debug"]


def test_a_forked_worker_repeats_nothing_and_loses_nothing() -> None:
    lines = lines_of("""
logs.configure("proxy")
async def main():
    log.info("of the parent", pid=os.getpid())
    child = os.fork()
    if child == 0:
        async def work():
            log.info("of the child", pid=os.getpid())
        asyncio.run(work())
        logs.flush()
        os._exit(0)
    os.waitpid(child, 0)
asyncio.run(main())
""")
    assert [line["event"] for line in lines] == ["of the parent", "of the child"]
    assert len({line["pid"] for line in lines}) == 2


STUCK = """
logs.configure("proxy")
async def main():
    for number in range(60_000):
        log.info("request", number=number)
    print(logs.dropped_lines(), file=sys.stderr)
asyncio.run(main())
"""


def test_a_process_ends_though_nobody_reads_its_log() -> None:
    reader, writer = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + STUCK], stdout=writer, stderr=subprocess.PIPE, check=True, timeout=60
    )
    os.close(writer)
    os.close(reader)
    assert int(done.stderr) > 0
