"""Requests in all the forms in which HTTP/1.1 may bring them."""

import socket
import time
from collections.abc import Iterator

import pytest

from tests.proxy.plain import Line, Plain, get, plain_server, post, until
from tests.support.prompt_server import Serving

Served = tuple[Plain, Serving]


@pytest.fixture
def served() -> Iterator[Served]:
    """A server, and its application."""
    with plain_server() as served:
        yield served


def test_a_connection_carries_one_request_after_the_other(served: Served) -> None:
    with Line(served[1].port) as line:
        for number in range(3):
            line.send(post("/echo", b"body %d" % number))
            assert line.receive(b"body %d" % number).startswith(b"HTTP/1.1 200 OK\r\n")
        line.send(get("/now", "connection: close"))
        assert b"\r\nconnection: close\r\n" in line.rest()


def test_a_request_may_come_byte_by_byte(served: Served) -> None:
    with Line(served[1].port) as line:
        line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post("/echo", b"slowly but surely", "x-request-id: a"):
            line.send(bytes([byte]))
        assert line.receive(b"slowly but surely")
    assert served[0].served[0].header(b"x-request-id") == b"a"


def test_the_target_is_taken_apart(served: Served) -> None:
    with Line(served[1].port) as line:
        for target in ("/a%20b?c=1&d", "http://proxy.example:8100/a%20b?c=1&d"):
            line.send(get(target))
            assert line.receive(b"/a b")
    assert [exchange.query for exchange in served[0].served] == ["c=1&d", "c=1&d"]


@pytest.mark.parametrize(
    "target", ["http://x:99999/v1/models", "http://:80/", "http://x:/", "http://a@b@c/", "http://[::1/"]
)
def test_a_target_that_cannot_be_taken_apart_is_a_bad_request(served: Served, target: str) -> None:
    application, serving = served
    with Line(serving.port, get("/now") + get(target) + get("/smuggled")) as line:
        answers = line.rest()
    assert answers.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"/nowHTTP/1.1 400 Bad Request\r\n" in answers
    assert [exchange.path for exchange in application.served] == ["/now"]
    assert serving.server.refused == {"bad_request": 1}


def test_a_chunked_body_is_put_together(served: Served) -> None:
    head = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with Line(served[1].port, head + b"3\r\none\r\n1;note=x\r\n,\r\n3\r\n") as line:
        line.send(b"two\r\n0\r\ntrailer: t\r\n\r\n")
        assert line.receive(b"one,two")


def test_what_comes_behind_a_body_is_no_header(served: Served) -> None:
    head = b"POST /echo HTTP/1.1\r\nhost: x\r\nauthorization: Bearer mine\r\ntransfer-encoding: chunked\r\n\r\n"
    with Line(
        served[1].port, head + b"3\r\none\r\n0\r\nauthorization: Bearer theirs\r\nx-priority: high\r\n\r\n"
    ) as line:
        assert line.receive(b"one")
    exchange = served[0].served[0]
    assert exchange.header(b"authorization") == b"Bearer mine"
    assert exchange.header(b"x-priority") is None


def test_head_is_answered_without_a_body(served: Served) -> None:
    with Line(served[1].port, b"HEAD /now HTTP/1.1\r\nhost: x\r\n\r\n" + get("/next")) as line:
        answers = line.receive(b"/next")
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert b"content-length: 4\r\n\r\nHTTP/1.1 200" in answers


def test_http_1_0_gets_the_end_of_the_connection_or_what_it_asks_for(served: Served) -> None:
    with Line(served[1].port, get("/stream", version="1.0")) as line:
        answer = line.rest()
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"\r\n\r\npiece 0,piece 1,piece 2,")
    with Line(served[1].port) as line:
        for _ in range(2):
            line.send(get("/now", "connection: keep-alive", version="1.0"))
            assert b"\r\nconnection: keep-alive\r\n" in line.receive(b"/now")


def test_a_stream_is_chunked_and_the_connection_goes_on(served: Served) -> None:
    with Line(served[1].port) as line:
        for _ in range(2):
            line.send(get("/stream"))
            answer = line.receive(b"0\r\n\r\n")
            assert answer.endswith(b"\r\n\r\n8\r\npiece 0,\r\n8\r\npiece 1,\r\n8\r\npiece 2,\r\n0\r\n\r\n")
            assert b"transfer-encoding: chunked" in answer


def test_requests_sent_ahead_are_answered_in_their_order(served: Served) -> None:
    application, serving = served
    ahead = get("/wait") + post("/echo", b"second") + get("/stream") + get("/last", "connection: close") + get("/no")
    with Line(serving.port, ahead) as line:
        until(lambda: application.served)
        application.let_go(serving)
        answer = line.rest()
    bodies = [part.split(b"\r\n\r\n", 1)[1] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies[0:2] == [b"waited", b"second"]
    assert b"piece 2," in bodies[2]
    assert bodies[3] == b"/last"
    assert len(bodies) == 4


def test_whoever_sends_too_far_ahead_gets_some_of_the_answers_and_is_not_kept(served: Served) -> None:
    application, serving = served
    with Line(serving.port, get("/wait") + get("/now") * 500) as line:
        until(lambda: application.served)
        application.let_go(serving)
        answer = line.rest()
    assert 10 < answer.count(b"HTTP/1.1 200 OK") < 100
    assert answer.endswith(b"/now")
    assert answer.count(b"connection: close") == 1


@pytest.mark.parametrize("ahead", [post("/echo", b"x" * 40_000) * 3, get("/now") * 100])
def test_a_caller_that_has_sent_far_ahead_and_leaves_ends_the_work_for_it(served: Served, ahead: bytes) -> None:
    application, serving = served
    with Line(serving.port, get("/wait")) as line:
        until(lambda: application.served)
        line.send(ahead)
        until(lambda: any(connection._deaf for connection in list(serving.server.connections)))
    until(lambda: application.cancelled == ["left"])
    until(lambda: not serving.server.connections)


def test_whoever_sends_more_ahead_than_is_kept_gets_the_answers_to_what_was(served: Served) -> None:
    application, serving = served
    with Line(serving.port, get("/wait") + post("/echo", b"x" * 40_000) * 3) as line:
        until(lambda: application.served)
        application.let_go(serving)
        answer = line.rest()
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.endswith(b"\r\nconnection: close\r\n\r\n" + b"x" * 40_000)


def test_a_caller_that_sends_large_answers_requests_ahead_and_does_not_read_is_held_back(served: Served) -> None:
    application, serving = served
    with Line(serving.port, get("/large?8000000") * 60) as line:
        until(lambda: any(connection.paused for connection in list(serving.server.connections)))
        time.sleep(0.1)
        assert len(application.served) < 10
        received = 0
        while received < 60 * 8_000_000:
            received += len(line.socket.recv(1 << 20))
    assert len(application.served) == 60


def test_a_caller_that_asks_whether_to_go_on_is_told_so_when_it_is_its_turn(served: Served) -> None:
    application, serving = served
    head = b"POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
    with Line(serving.port, head) as line:
        assert line.receive(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.send(b"body")
        assert line.receive(b"body")
        line.send(get("/wait") + head)
        until(lambda: len(application.served) == 2)
        application.let_go(serving)
        assert line.receive(b"100 Continue\r\n\r\n").index(b"waited") < 200
        line.send(b"more")
        assert line.receive(b"more")


@pytest.mark.parametrize("framing", ["content-length: 4", "transfer-encoding: chunked"])
def test_an_offer_of_http_2_is_passed_over_and_the_body_read(served: Served, framing: str) -> None:
    """Java's own client makes it with every request."""
    body = b"body" if framing.startswith("content") else b"4\r\nbody\r\n0\r\n\r\n"
    offer = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk"
    head = f"POST /echo HTTP/1.1\r\nhost: x\r\n{offer}\r\n{framing}\r\n\r\n".encode()
    with Line(served[1].port) as line:
        for part in (head + body, head[:30], head[30:], body):
            line.send(part)
            if part.endswith(body):
                assert line.receive(b"\r\n\r\nbody").startswith(b"HTTP/1.1 200 OK")
    assert len(served[0].served) == 2


@pytest.mark.parametrize("leave", [lambda line: line.close(), lambda line: line.socket.shutdown(socket.SHUT_WR)])
def test_a_caller_that_leaves_or_half_leaves_ends_the_work_for_it(served: Served, leave: object) -> None:
    application, serving = served
    assert callable(leave)
    with Line(serving.port, get("/wait")) as line:
        until(lambda: application.served)
        leave(line)
        until(lambda: application.cancelled == ["left"])
        until(lambda: not serving.server.connections)


def test_a_caller_that_leaves_in_the_same_breath_is_accounted_for(served: Served) -> None:
    application, serving = served
    for number in range(1, 21):
        with Line(serving.port) as line:
            line.send(get("/wait"))
            line.socket.shutdown(socket.SHUT_WR)
            until(lambda: len(application.cancelled) == number)  # noqa: B023 - it is waited for right here
            assert line.rest() == b""
    assert application.cancelled == ["left"] * 20


def test_a_mistake_of_the_application_closes_the_connection_and_no_other(served: Served) -> None:
    with Line(served[1].port, get("/fail")) as failing, Line(served[1].port, get("/now")) as other:
        assert failing.rest() == b""
        assert other.receive(b"/now")
