"""What the proxy answers besides replies: pages, refusals, headers; and what it does to hostile callers."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from athena.proxy.model_changes import CHANGES
from athena.proxy.server.limits import Limits
from tests.proxy.conftest import Run, StartProxy, running_proxy, wait_for_configuration
from tests.proxy.engines import openai_engine
from tests.proxy.standin import Heard, Registry, StandIn, backend

CHAT = "/v1/chat/completions"
BODY = {"model": "m-openai", "messages": [{"role": "user", "content": "Good morning"}]}
NO_REQUESTS = [b"", b"{", b"[]", b"null", b'"text"', b'{"model": 1}', b"{}", b"\xff\xfe", b'{"model": ""}']


def test_the_root_and_the_version_answer_as_ollamas_do(http: httpx.Client) -> None:
    assert http.get("/").text == "Athena is running"
    assert http.head("/").status_code == 200
    assert http.get("/api/version").json().keys() == {"version"}
    assert http.get("/livez").json() == {"status": "alive"}


def test_the_description_lists_every_path_that_is_served(http: httpx.Client) -> None:
    description = http.get("/openapi.json").json()
    assert description["openapi"] == "3.1.0"
    for path, operations in description["paths"].items():
        for method in operations:
            asked = {"model": "m-mlx"} if path == "/athena/why" else None
            status = http.request(method, path.replace("{id}", "m-mlx"), params=asked).status_code
            expected = 403 if path in CHANGES else 400 if method == "post" else 200
            assert status == expected, (method, path)


@pytest.mark.parametrize(("path", "ollama"), [("/v1/nothing", False), ("/nothing", False), ("/api/nothing", True)])
def test_an_unknown_path_is_not_found_in_the_dialect_of_its_side(http: httpx.Client, path: str, ollama: bool) -> None:
    reply = http.get(path)
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert path in (error if ollama else error["message"])


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("DELETE", "/api/chat", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_answered_with_the_right_ones(http: httpx.Client, method: str, path: str, allow: str) -> None:
    reply = http.request(method, path)
    assert reply.status_code == 405
    assert reply.headers["allow"] == allow
    assert "error" in reply.json()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, path) for path, method in CHANGES.items()),
        ("POST", "/api/blobs/sha256:0"),
        ("HEAD", "/api/blobs/sha256:0"),
    ],
)
def test_what_would_change_the_models_of_an_engine_is_an_administrators_affair(
    http: httpx.Client, method: str, path: str
) -> None:
    reply = http.request(method, path, json={"model": "m-ollama"})
    assert reply.status_code == 403
    if method != "HEAD":
        assert "administrator" in reply.json()["error"]


def test_an_answer_names_the_backend_and_the_request(http: httpx.Client) -> None:
    reply = http.post(CHAT, json=BODY, headers={"x-request-id": "from-the-caller:1"})
    assert reply.headers["x-request-id"] == "from-the-caller:1"
    assert reply.headers["x-athena-backend"] == "openai"
    assert reply.headers["x-athena-backend-id"] == "1"
    assert int(reply.headers["content-length"]) == len(reply.content)
    other = http.post("/api/generate", json={"model": "tiny:latest", "prompt": "Once", "stream": False})
    assert other.headers["x-athena-backend"] == "ollama"
    assert other.headers["x-athena-backend-id"] == "default"


def test_a_request_id_that_is_not_sane_is_replaced(http: httpx.Client) -> None:
    for insane in ("", "has spaces", "x" * 129, 'quote"s'):
        given = http.get("/livez", headers={"x-request-id": insane}).headers["x-request-id"]
        assert given != insane
        assert len(given) == 16


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"text"', b'{"model": 1}', b"{}", b"\xff\xfe", b'{"model":""}']
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/api/chat", "/api/generate"])
def test_a_body_that_is_no_request_is_refused_in_the_callers_dialect(
    http: httpx.Client, path: str, body: bytes
) -> None:
    reply = http.post(path, content=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert isinstance(error, str if path.startswith("/api/") else dict)


@pytest.mark.parametrize("depth", [500, 5_000, 100_000])
@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
@pytest.mark.parametrize("model", ["m-openai", "m-ollama"])
def test_deep_nesting_does_no_harm(http: httpx.Client, path: str, depth: int, model: str) -> None:
    nested = b"[" * depth + b"]" * depth
    body = b'{"model": "%b", "messages": [{"role": "user", "content": "Hi"}], "x": %b}' % (model.encode(), nested)
    assert http.post(path, content=body).status_code in ((200, 422) if depth < 1000 else (400,))
    assert http.get("/livez").status_code == 200


@contextmanager
def _strict_proxy() -> Iterator[str]:
    """Run a proxy that takes bodies of up to 64 KiB, for half a second."""
    limits = Limits(body_bytes=65536, body_seconds=0.5)
    with (
        StandIn(openai_engine) as engine,
        Registry([backend("m-openai", "openai", engine.url)]) as registry,
        running_proxy(registry.url, "http://127.0.0.1:9", limits=limits) as url,
    ):
        yield wait_for_configuration(url)


@pytest.fixture(scope="module")
def strict() -> Iterator[str]:
    """Such a proxy, for the tests that leave no trace in it."""
    with _strict_proxy() as url:
        yield url


def test_a_body_that_is_too_large_is_refused_whether_or_not_it_says_so(strict: str) -> None:
    body = json.dumps({**BODY, "x": "y" * 200_000}).encode()
    with httpx.Client(base_url=strict) as client:
        declared = client.post(CHAT, content=body)
        chunked = client.post(CHAT, content=iter([body[:1000], body[1000:]]))
    for reply in (declared, chunked):
        assert reply.status_code == 413
        assert "65536 bytes" in reply.json()["error"]["message"]
        assert reply.headers["connection"] == "close"


def _talk(url: str, request: bytes, *, seconds: float = 30) -> tuple[bytes, float]:
    """Send these bytes and return what comes until the connection is closed, and how long that took."""
    host, port = url.removeprefix("http://").split(":")
    started = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(request)
        received = b""
        while data := connection.recv(65536):
            received += data
    return received, time.monotonic() - started


@pytest.mark.parametrize("head", [b"content-length: 1000", b"transfer-encoding: chunked"])
def test_a_sender_that_does_not_go_on_is_sent_away(strict: str, head: bytes) -> None:
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + head + b'\r\n\r\n2\r\n{"'
    received, seconds = _talk(strict, request)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert 0.4 < seconds < 4


def test_a_body_without_end_is_cut_off(strict: str) -> None:
    host, port = strict.removeprefix("http://").split(":")
    sent = 0
    refused = False
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        while not refused and sent < 1 << 26:
            try:
                sent += connection.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            except OSError:  # reset or broken pipe, as the moment has it
                refused = True
    assert refused
    assert sent < 1 << 24


def test_when_no_engine_answers_the_caller_learns_which_were_tried_and_when_to_come_back(
    stand_in: Run, proxy_for: StartProxy
) -> None:
    async def broken(heard: Heard) -> None:
        await heard.answer(b'{"error": {"message": "out of memory"}}', status=500)

    url = proxy_for(
        backend("m", "openai", stand_in(broken).url, priority=0),
        backend("m", "mlx", "http://127.0.0.1:9", priority=1),
    )
    for path, body in ((CHAT, {**BODY, "model": "m"}), ("/api/generate", {"model": "m", "prompt": "Once"})):
        reply = httpx.post(url + path, json=body)
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1
        assert "openai" in reply.text
        assert "mlx" in reply.text
        assert "refused" in reply.text


@pytest.mark.parametrize(("path", "ollama"), [(CHAT, False), ("/api/chat", True), ("/nothing", False)])
@pytest.mark.parametrize(
    ("rest", "status"),
    [
        ("content-length: 70000\r\n\r\n", 413),
        ("transfer-encoding: chunked\r\n\r\n5\r\n{", 408),
        ("x: " + "y" * 70_000 + "\r\n\r\n", 431),
        ("content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n", 400),
    ],
)
def test_what_the_server_refuses_is_told_in_the_dialect_of_the_path(
    strict: str, path: str, ollama: bool, rest: str, status: int
) -> None:
    answer, _ = _talk(strict, f"POST {path} HTTP/1.1\r\nhost: x\r\n{rest}".encode())
    lines, _, told = answer.partition(b"\r\n\r\n")
    assert lines.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nconnection: close" in lines
    assert b"\r\nx-request-id: " in lines
    error = json.loads(told)["error"]
    # Where the head itself cannot be read there is no path yet.
    assert isinstance(error, str if ollama and status != 400 else dict)


def test_what_the_server_refuses_is_counted() -> None:
    with _strict_proxy() as url:
        _talk(url, b"HELLO\r\n\r\n")
        _talk(url, b"POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: 70000\r\n\r\n")
        metrics = httpx.get(f"{url}/metrics").text
    assert 'athena_refused_total{reason="bad_request"} 1.0' in metrics
    assert 'athena_refused_total{reason="payload_too_large"} 1.0' in metrics
    assert (
        'gen_ai_server_request_duration_seconds_count{backend_id="",error_group="policy",error_type="payload_too_large",'
        in metrics
    )
    assert "athena_connections 1.0" in metrics


@pytest.mark.parametrize("priority", ["high", "normal", "low", "High"])
def test_a_caller_may_say_how_urgent_it_is(http: httpx.Client, priority: str) -> None:
    assert http.post(CHAT, json=BODY, headers={"x-athena-priority": priority}).status_code == 200


@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
def test_a_priority_that_there_is_not_is_refused_by_its_name(http: httpx.Client, path: str) -> None:
    reply = http.post(path, json=BODY, headers={"x-athena-priority": "urgent"})
    assert reply.status_code == 400
    assert "x-athena-priority must be high, normal or low" in reply.text
