"""What callers may cost: each limit is met, answered clearly, and costs the others nothing."""

import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from athena.proxy.server.limits import Limits, connections_for, memory_limit, raise_file_limit, room_for_bodies
from tests.proxy.plain import Line, Plain, get, plain_server, post, until
from tests.support.prompt_server import Serving

HEAD = b"POST /echo HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
AMBIGUOUS = [
    HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    HEAD + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    HEAD + b"content-length: +3\r\n\r\nabc",
    HEAD + b"content-length: 3, 3\r\n\r\nabc",
    HEAD + b"content-length:\r\n\r\n",
    HEAD + b"content-length: 99999999999999999999\r\n\r\n",
    HEAD + b"transfer-encoding: identity\r\n\r\n",
    HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    HEAD + b" transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"x: a\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    CHUNKED + b"3\r\nabcXX0\r\n\r\n",
    CHUNKED + b"fffffffffffffffff\r\nabc",
]
NO_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00",  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /now HTTP/1.1\nhost: x\n\n",
    b"GET /now HTTP/3.7\r\n\r\n",
    b"HELLO\r\n\r\n",
    b"CONNECT engine:11434 HTTP/1.1\r\nhost: x\r\n\r\n",
    HEAD + b"x: a\x00b\r\n\r\n",
]


@contextmanager
def limited(**limits: float) -> Iterator[tuple[Plain, Serving]]:
    """Run a server with these limits; at the end nothing of the callers may be left."""
    chosen = {name: int(value) if isinstance(value, int) else value for name, value in limits.items()}
    with plain_server(Limits(**chosen)) as (application, serving):  # type: ignore[arg-type]
        yield application, serving
        until(lambda: not serving.server.connections)
        watches = serving.server.watches
        for watch in (watches.head, watches.body, watches.idle, watches.unread, watches.linger):
            assert not watch.since


@pytest.mark.parametrize("request_bytes", AMBIGUOUS + NO_HTTP)
def test_what_two_servers_could_read_in_two_ways_is_refused_and_nothing_after_it_is_looked_at(
    request_bytes: bytes,
) -> None:
    with limited() as (application, serving):
        with Line(serving.port, request_bytes + get("/smuggled")) as line:
            answer = line.rest()
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"\r\nconnection: close\r\n" in answer
        assert len(answer.split(b"\r\n\r\n")[1]) > 20
        assert not application.served
        assert serving.server.refused == {"bad_request": 1}


def test_a_bad_request_behind_a_good_one_is_refused_after_the_good_one_is_answered() -> None:
    with limited() as (application, serving), Line(serving.port, get("/wait") + AMBIGUOUS[0]) as line:
        until(lambda: serving.server.refused)
        assert not application.refused
        application.let_go(serving)
        answer = line.rest()
        assert answer.index(b"waited") < answer.index(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("at_once", [True, False])
def test_a_head_that_is_too_large_is_refused(at_once: bool) -> None:
    with limited(head_bytes=4096) as (_, serving), Line(serving.port) as line:
        lines = [b"GET /now HTTP/1.1\r\n", *(b"x-%d: %b\r\n" % (number, b"y" * 1000) for number in range(9)), b"\r\n"]
        if at_once:
            line.send(b"".join(lines))
        else:
            for part in lines[:-1]:
                line.send(part)
                time.sleep(0.002)
        answer = line.rest()
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"4096 bytes" in answer


def test_a_head_that_is_too_large_is_refused_though_none_of_its_pieces_is() -> None:
    with limited(head_bytes=4096) as (_, serving), Line(serving.port) as line:
        line.send(b"GET /now HTTP/1.1\r\nx: " + b"y" * 3000)
        time.sleep(0.05)
        line.send(b"y" * 3000 + b"\r\n\r\n")
        assert line.rest().startswith(b"HTTP/1.1 431 ")


def test_a_head_in_pieces_that_is_not_too_large_is_taken() -> None:
    with limited(head_bytes=4096) as (_, serving), Line(serving.port) as line:
        line.send(b"GET /now HTTP/1.1\r\nx: " + b"y" * 2000)
        time.sleep(0.05)
        line.send(b"y" * 1000 + b"\r\n\r\n")
        assert b"HTTP/1.1 200 OK" in line.receive(b"/now")


def test_a_header_without_end_is_cut_off() -> None:
    with limited(head_bytes=65536, body_bytes=1 << 20) as (_, serving), Line(serving.port) as line:
        line.send(b"GET /now HTTP/1.1\r\nx: ")
        sent = 0
        while sent < 1 << 26:
            try:
                sent += line.socket.send(b"y" * 65536)
            except OSError:  # reset or broken pipe, as the moment has it
                break
        assert sent < 1 << 25


def test_a_large_body_does_not_make_the_head_of_the_next_request_too_large() -> None:
    with limited(head_bytes=1024) as (_, serving), Line(serving.port) as line:
        line.send(post("/echo", b"b" * 20_000) + get("/next")[:20])
        time.sleep(0.05)
        line.send(get("/next")[20:])
        assert line.receive(b"/next").count(b"HTTP/1.1 200 OK") == 2


def test_too_many_headers_are_refused() -> None:
    with limited(headers=10) as (_, serving):
        with Line(serving.port, get("/now", *["x: y"] * 9)) as line:
            assert line.receive(b"/now")
        with Line(serving.port, get("/now", *["x: y"] * 10)) as line:
            answer = line.rest()
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"more than 10 headers" in answer


def test_a_head_that_is_not_finished_in_time_is_sent_away_however_busy_its_sender_looks() -> None:
    with limited(head_seconds=0.3) as (_, serving), Line(serving.port, b"GET /now HTTP/1.1\r\n") as line:
        began = time.monotonic()
        line.socket.settimeout(0.05)
        answer = b""
        while not answer:
            assert time.monotonic() - began < 5
            line.send(b"x: y\r\n")
            try:
                answer = line.socket.recv(4096)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 0.3 s" in answer
        assert time.monotonic() - began > 0.25


def test_an_offer_of_http_2_in_two_pieces_leaves_no_clock_behind() -> None:
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
    request = HEAD + offer + b"content-length: 4\r\n\r\nbody"
    with limited() as (_, serving), Line(serving.port, request[:40]) as line:
        until(lambda: serving.server.watches.head.since)
        line.send(request[40:])
        assert line.receive(b"\r\n\r\nbody").startswith(b"HTTP/1.1 200 OK")
        assert not serving.server.watches.head.since
        assert not serving.server.watches.body.since


def test_a_body_that_is_not_finished_in_time_is_sent_away() -> None:
    with limited(body_seconds=0.2) as (application, serving):
        for head in (HEAD + b"content-length: 10\r\n\r\n", CHUNKED):
            with Line(serving.port, head + b"2\r\n") as line:
                answer = line.rest()
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"body did not arrive" in answer
        assert not application.served


def test_a_body_that_says_it_is_too_large_is_refused_before_any_of_it_is_read() -> None:
    with limited(body_bytes=1000) as (_, serving):
        with Line(serving.port, HEAD + b"content-length: 1001\r\nexpect: 100-continue\r\n\r\n") as line:
            answer = line.rest()
        assert answer.startswith(b"HTTP/1.1 413 ")
        with Line(serving.port, CHUNKED + b"3e9\r\n" + b"x" * 1001 + b"\r\n") as line:
            assert line.rest().startswith(b"HTTP/1.1 413 ")
        with Line(serving.port, post("/echo", b"x" * 1000)) as line:
            assert line.receive(b"x" * 1000)


def test_large_bodies_of_all_callers_together_hold_no_more_than_they_may() -> None:
    body = b"x" * 2_000_000  # more than one read brings
    with limited(all_body_bytes=3_000_000) as (application, serving):
        with Line(serving.port) as first, Line(serving.port) as second, Line(serving.port) as small:
            first.send(post("/wait", body))
            until(lambda: serving.server.held == len(body))
            second.send(post("/echo", body))
            answer = second.rest()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in answer
            assert b"3000000 bytes" in answer
            small.send(post("/echo", b"small"))
            assert small.receive(b"small")
            application.let_go(serving)
            assert first.receive(b"waited")
        until(lambda: serving.server.held == 0)
        with Line(serving.port, post("/echo", body)) as line:
            assert line.receive(body)
        with Line(serving.port, post("/echo", body)[:-1]) as line:
            until(lambda: serving.server.held == len(body) - 1)
        until(lambda: serving.server.held == 0)
        assert serving.server.refused == {"out_of_room": 1}


MIB = 1 << 20


@pytest.mark.parametrize(
    ("workers", "memory", "room"),
    [
        (1, None, 256 * MIB),
        (4, None, 64 * MIB),
        (1, 512 * MIB, 64 * MIB),
        (2, 1024 * MIB, 64 * MIB),
        (8, 512 * MIB, Limits().body_bytes),
    ],
)
def test_what_all_bodies_may_hold_follows_the_memory_and_always_lets_the_largest_in(
    workers: int, memory: int | None, room: int
) -> None:
    assert room_for_bodies(workers, memory) == room


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "536870912\n"}, 512 * MIB),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/a.slice/b.service\n", {"a.slice/memory.max": "1048576\n", "a.slice/b.service/memory.max": "max\n"}, MIB),
        ("0::/a.slice/b.service\n", {"a.slice/memory.max": "max\n", "a.slice/b.service/memory.max": "1048576\n"}, MIB),
        ("4:cpu,cpuacct:/x\n3:memory:/docker/c\n", {"memory/memory.limit_in_bytes": "536870912\n"}, 512 * MIB),
        ("3:memory:/docker/c\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("0::/\n", {}, None),
        (None, {}, None),
    ],
    ids=["v2", "v2-none", "v2-above", "v2-own", "v1-container", "v1-none", "root", "macos"],
)
def test_the_memory_that_a_process_may_take_is_the_least_of_its_groups(
    tmp_path: Path, membership: str | None, files: dict[str, str], limit: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    if membership is not None:
        (tmp_path / "membership").write_text(membership)
    assert memory_limit(tmp_path / "membership", tmp_path / "cgroup") == limit


def test_whoever_fills_the_room_for_bodies_keeps_nobody_out_of_it() -> None:
    body = b"x" * 1_000_000  # more than one read brings
    with limited(all_body_bytes=3_500_000) as (_, serving), ExitStack() as lines:
        filling = [lines.enter_context(Line(serving.port, post("/echo", body * 2)[: -len(body) // 2])) for _ in "ab"]
        until(lambda: serving.server.held == 3 * len(body))
        with Line(serving.port, post("/echo", body)) as modest:
            assert modest.receive(body)
        answered = select.select([line.socket for line in filling], [], [], 10)[0]
        assert [sender.recv(13) for sender in answered] == [b"HTTP/1.1 503 "]
        assert serving.server.refused == {"out_of_room": 1}
    until(lambda: serving.server.held == 0)


@pytest.mark.parametrize("endless", [b"3;x=", b"0\r\nx: "])
def test_what_goes_on_beside_a_body_without_end_is_cut_off(endless: bytes) -> None:
    with limited(body_bytes=100_000, head_bytes=1000) as (_, serving), Line(serving.port, CHUNKED + endless) as line:
        sent = 0
        while sent < 1 << 26 and not serving.server.refused:
            try:
                sent += line.socket.send(b"y" * 65536)
            except OSError:  # reset or broken pipe, as the moment has it
                break
        assert sent < 1 << 24
        until(lambda: serving.server.refused == {"payload_too_large": 1})


def test_whoever_sends_ahead_without_end_is_held_back_and_then_cut_off() -> None:
    ahead = get("/wait") + get("/now") * 100
    with limited(body_bytes=100_000) as (application, serving), Line(serving.port, ahead) as line:
        line.socket.settimeout(1)
        sent = 0
        while sent < 1 << 28:
            try:
                sent += line.socket.send(b"y" * 65536)
            except TimeoutError:
                break
        assert sent < 1 << 26
        assert not application.cancelled
        application.let_go(serving)
        until(lambda: not serving.server.connections)


def test_a_refused_caller_that_goes_on_sending_still_gets_its_answer() -> None:
    with limited(body_bytes=1 << 20) as (_, serving):
        head = HEAD + b"content-length: 3000000\r\n\r\n"
        with Line(serving.port, head + b"x" * 900_000) as line:
            time.sleep(0.05)
            line.send(b"x" * 1000)
            assert line.rest().startswith(b"HTTP/1.1 413 ")


def test_a_connection_that_is_idle_for_too_long_is_closed_used_or_not() -> None:
    with limited(idle_seconds=0.3) as (_, serving), Line(serving.port) as unused:
        began = time.monotonic()
        with Line(serving.port, get("/now")) as used:
            assert used.rest().endswith(b"/now")
        assert unused.rest() == b""
        assert 0.2 < time.monotonic() - began < 5


def test_an_answer_in_the_making_is_not_idleness() -> None:
    with limited(idle_seconds=0.1) as (application, serving), Line(serving.port, get("/wait")) as line:
        time.sleep(0.4)
        application.let_go(serving)
        assert line.receive(b"waited")


def test_a_caller_beyond_the_last_place_is_told_when_to_come_back() -> None:
    with limited(connections=2) as (_, serving), ExitStack() as stack:
        for _ in range(2):
            line = stack.enter_context(Line(serving.port, get("/now")))
            assert line.receive(b"/now")
        with Line(serving.port, get("/now")) as third:
            answer = third.rest()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in answer
        assert serving.server.refused == {"too_many_connections": 1}


def test_connections_that_have_long_been_idle_give_way_to_new_ones() -> None:
    with limited(connections=2, way_after_seconds=0.1) as (_, serving), ExitStack() as stack:
        idle = stack.enter_context(Line(serving.port, get("/now")))
        assert idle.receive(b"/now")
        busy = stack.enter_context(Line(serving.port, get("/wait")))
        time.sleep(0.15)
        with Line(serving.port, get("/now")) as third:
            assert third.receive(b"/now")
        assert idle.rest() == b""
        assert len(serving.server.connections) >= 1
        busy.close()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_caller_that_never_reads_is_held_back_and_then_broken_off() -> None:
    with limited(unread_seconds=0.5) as (application, serving), Line(serving.port, get("/flood")) as line:
        before = _resident()
        until(lambda: application.cancelled == ["unread"])
        assert application.written < 50_000_000
        assert _resident() - before < 30_000_000
        assert serving.server.refused == {"unread": 1}
        assert not line.rest().endswith(b"0\r\n\r\n")


def test_a_caller_that_reads_slowly_is_not_broken_off() -> None:
    with limited(unread_seconds=0.3) as (application, serving), Line(serving.port, get("/large?30000000")) as line:
        received = 0
        while received < 30_000_000:
            data = line.socket.recv(1_500_000)
            assert data
            received += len(data)
            time.sleep(0.02)
        assert not application.cancelled


def test_an_answer_of_which_nothing_is_read_does_not_hold_its_connection() -> None:
    with limited(unread_seconds=0.3) as (_, serving), Line(serving.port, get("/large?30000000", "connection: close")):
        until(lambda: serving.server.refused == {"unread": 1})


@pytest.mark.slow
def test_ten_thousand_idle_connections_cost_the_others_nothing() -> None:
    most = raise_file_limit()
    connections = min(10_000, most // 2 - 200)
    assert connections >= 5_000, f"only {most} files may be open"
    with limited(connections=20_000) as (_, serving), ExitStack() as stack:
        before = _resident()
        idle = [stack.enter_context(Line(serving.port)) for _ in range(connections // 2)]
        for line in (stack.enter_context(Line(serving.port, get("/now"))) for _ in range(connections // 2)):
            assert line.receive(b"/now")
            idle.append(line)
        assert _resident() - before < connections * 20_000  # both ends are in this process
        with Line(serving.port) as line:
            for _ in range(100):
                line.send(get("/now"))
                assert line.receive(b"/now")
        assert len(serving.server.connections) >= connections


def test_the_number_of_connections_leaves_files_for_the_rest() -> None:
    assert connections_for(20_000) == 15_000
    assert connections_for(resource.RLIM_INFINITY) > 100_000
    assert raise_file_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_the_kernel_is_asked_to_notice_callers_whose_machines_vanish() -> None:
    with limited() as (_, serving), Line(serving.port, get("/now")) as line:
        line.receive(b"/now")
        for connection in list(serving.server.connections):
            accepted = connection.transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 40_000
