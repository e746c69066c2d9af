"""Traces: what a receiver of OTLP gets, what log lines and engines are told, and that nobody waits for any of it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.trace import SpanKind

from athena.observability.otel import Traces
from tests.observability.installation import BROKEN, Installation, installation
from tests.observability.otlp_receiver import ReceivedSpan, Receiver
from tests.proxy.engines import ollama_engine
from tests.proxy.standin import Heard, Registry, StandIn, backend
from tests.support.ports import quiet_port
from tests.support.processes import Server, athena, serving
from tests.support.registry import TOKEN

CHAT = "/v1/chat/completions"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("traced")
    with installation(folder, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, **SOON) as installed:
        yield installed


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "A very private question"}], **more}


def of(span_id: str) -> Any:
    return lambda span: span.attributes.get("athena.request.id") == span_id


def children(receiver: Receiver, span: ReceivedSpan, count: int = 1) -> list[ReceivedSpan]:
    return receiver.until(lambda other: other.parent == span.id, count)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["m-openai", "small"])
def test_a_request_to_the_proxy_is_a_span_in_its_callers_trace_with_one_for_the_engine(
    traced: Installation, receiver: Receiver, model: str, stream: bool
) -> None:
    given = f"{model}-{stream}"
    headers = {"x-request-id": given, "traceparent": TRACEPARENT, "tracestate": "vendor=1"}
    asked = body(model, stream=stream, stream_options={"include_usage": True}) if stream else body(model)
    httpx.post(traced.proxy.url + CHAT, json=asked, headers=headers).raise_for_status()
    (span,) = receiver.until(of(given))
    assert (span.service, span.name, span.kind) == ("athena-proxy", f"chat {model}", "server")
    assert (span.trace, span.parent, span.failed) == (TRACE, PARENT, False)
    expected = {
        "http.request.method": "POST",
        "http.route": CHAT,
        "url.path": CHAT,
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.provider.name": "openai" if model == "m-openai" else "ollama",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
    }
    assert {name: span.attributes.get(name) for name in expected} == expected
    (attempt,) = children(receiver, span)
    assert (attempt.name, attempt.kind, attempt.failed) == (f"chat {model}", "client", False)
    assert attempt.attributes["server.port"] == traced.engine.port
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 5
    assert span.seconds >= attempt.seconds > 0
    heard = [heard.headers for heard in traced.engine.heard if heard.headers.get("x-request-id") == given]
    assert [(told["traceparent"], told["tracestate"]) for told in heard] == [
        (f"00-{TRACE}-{attempt.id}-01", "vendor=1")
    ]
    line = told_of(traced.proxy, "llm_request_completed", given)
    assert line["trace_id"] == TRACE


def told_of(server: Server, event: str, request_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 5
    while not (lines := [line for line in server.events(event) if line.get("request_id") == request_id]):
        assert time.monotonic() < deadline, server.lines()
        time.sleep(0.02)
    return lines[0]


def test_what_fails_says_so_by_its_type_and_by_no_word_of_the_prompt(traced: Installation, receiver: Receiver) -> None:
    httpx.post(traced.proxy.url + CHAT, json=body(BROKEN), headers={"x-request-id": "fails"})
    (span,) = receiver.until(of("fails"))
    assert (span.failed, span.attributes["error.type"]) == (True, "no_backend_available")
    assert span.attributes["http.response.status_code"] == 503
    (attempt,) = children(receiver, span)
    assert (attempt.failed, attempt.attributes["error.type"], attempt.told) == (True, "status", "status 500")
    assert told_of(traced.proxy, "llm_request_failed", "fails")["trace_id"] == span.trace
    httpx.post(traced.proxy.url + CHAT, content=b"{", headers={"x-request-id": "rejected"})
    (span,) = receiver.until(of("rejected"))
    assert (span.failed, span.attributes["error.type"]) == (False, "request_rejected"), "it is the caller's fault"


def test_a_query_has_a_span_for_each_step_and_each_attempt(traced: Installation, receiver: Receiver) -> None:
    headers = {"x-request-id": "query", "traceparent": TRACEPARENT}
    asked = {"query": "Is it warm?", "mode": "owner"}
    httpx.post(traced.orchestrator.url + "/query", json=asked, headers=headers).raise_for_status()
    (span,) = receiver.until(of("query"))
    assert (span.service, span.name, span.kind) == ("athena-orchestrator", "POST /query", "server")
    assert (span.trace, span.parent) == (TRACE, PARENT)
    assert (span.attributes["gen_ai.response.model"], span.attributes["gen_ai.usage.output_tokens"]) == ("large", 10)
    steps = children(receiver, span, 2)
    assert [(step.name, step.kind) for step in steps] == [("step classify", "internal"), ("step answer", "internal")]
    for step, model in zip(steps, ("small", "large"), strict=True):
        (attempt,) = children(receiver, step)
        assert (attempt.name, attempt.kind, attempt.trace) == (f"chat {model}", "client", TRACE)
    assert told_of(traced.orchestrator, "routing_llm_request", "query")["trace_id"] == TRACE


def test_no_span_has_a_word_of_a_prompt_or_of_an_answer(traced: Installation, receiver: Receiver) -> None:
    for model in ("m-openai", "small", BROKEN):
        httpx.post(traced.proxy.url + CHAT, json=body(model), headers={"x-request-id": f"private-{model}"})
        receiver.until(of(f"private-{model}"))
    sent = b"".join(receiver.bodies)
    assert b"private-m-openai" in sent
    assert b"private question" not in sent
    assert b"Hello there" not in sent


def test_a_fallback_is_seen_as_two_attempts(receiver: Receiver, tmp_path: Path) -> None:
    async def dead(heard: Heard) -> None:
        heard.reset()

    with StandIn(dead) as broken, StandIn(ollama_engine) as ollama:
        rows = [backend("m", "auto", broken.url)]
        with Registry(rows) as registry:
            settings = {
                "ADMIN_API_URL": registry.url,
                "ADMIN_API_TOKEN": TOKEN,
                "OLLAMA_URL": ollama.url,
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
                "OTEL_SERVICE_NAME": "a-name-of-ones-own",
                **SOON,
            }
            with serving("proxy", tmp_path / "log", **settings) as proxy:
                proxy.told("registry_in_reach")
                httpx.post(proxy.url + CHAT, json=body("m"), headers={"x-request-id": "falls"}).raise_for_status()
                (span,) = receiver.until(of("falls"))
                attempts = children(receiver, span, 2)
                assert proxy.stop() == 0
    assert span.service == "a-name-of-ones-own"
    told = [(one.attributes["gen_ai.provider.name"], one.attributes.get("error.type")) for one in attempts]
    assert told in ([("mlx", "reset"), ("ollama", None)], [("mlx", "empty"), ("ollama", None)])


def test_a_request_to_the_admin_api_is_a_span_and_its_questions_for_news_are_none(
    receiver: Receiver, tmp_path: Path, database_url: str
) -> None:
    settings = {
        "DATABASE_URL": database_url,
        "ADMIN_API_TOKEN": TOKEN,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
    }
    with serving("admin", tmp_path / "log", **settings) as admin:
        news = admin.url + "/api/llm-backends/changes?after=0&wait=0"
        httpx.get(news, headers={"x-request-id": "news"}).raise_for_status()
        answer = httpx.get(admin.url + "/api/llm-backends/model/none", headers={"x-request-id": "admin"})
        assert answer.status_code == 404
        assert admin.stop() in (0, -15)  # what is left is sent at the end
    (span,) = receiver.until(of("admin"))
    assert [other.name for other in receiver.spans if other.service == "athena-admin"] == [span.name]
    assert (span.service, span.name) == ("athena-admin", "GET /api/llm-backends/model/{model_name:path}")
    assert (span.attributes["http.response.status_code"], span.failed) == (404, False)
    assert not [span for span in receiver.spans if of("news")(span)]


def test_the_sampler_is_the_standard_one(receiver: Receiver, tmp_path: Path) -> None:
    more = {"OTEL_TRACES_SAMPLER": "parentbased_always_off", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **SOON}
    with installation(tmp_path, **more) as installed:
        url = installed.proxy.url + CHAT
        httpx.post(url, json=body("small"), headers={"x-request-id": "unsampled"}).raise_for_status()
        headers = {"x-request-id": "by-the-caller", "traceparent": TRACEPARENT}
        httpx.post(url, json=body("small"), headers=headers).raise_for_status()
        receiver.until(of("by-the-caller"))
        (heard,) = [one.headers for one in installed.engine.heard if one.headers.get("x-request-id") == "unsampled"]
        assert int(heard["traceparent"].rpartition("-")[2], 16) & 1 == 0
    assert not [span for span in receiver.spans if of("unsampled")(span)]


def test_workers_of_a_proxy_each_send_their_own(receiver: Receiver, tmp_path: Path) -> None:
    with installation(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, PROXY_WORKERS="2", **SOON) as installed:
        for number in range(20):
            headers = {"x-request-id": f"worker-{number}"}
            httpx.post(installed.proxy.url + CHAT, json=body("small"), headers=headers).raise_for_status()
        receiver.until(lambda span: str(span.attributes.get("athena.request.id")).startswith("worker-"), 20)


def dropped(server: Server) -> float:
    for line in httpx.get(server.url + "/metrics").text.splitlines():
        if line.startswith("athena_spans_dropped_total "):
            return float(line.rpartition(" ")[2])
    raise AssertionError("no such metric")


@pytest.mark.parametrize("away", ["refused", "silent"])
def test_a_receiver_that_is_away_costs_no_request_anything(tmp_path: Path, away: str) -> None:
    with Receiver() as silent:
        silent.delay = 30.0
        endpoint = silent.url if away == "silent" else f"http://127.0.0.1:{quiet_port()}"
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_BSP_MAX_QUEUE_SIZE": "4",
            **SOON,
        }
        with installation(tmp_path, **settings) as installed:
            with httpx.Client(base_url=installed.proxy.url) as client:
                for _ in range(40):
                    began = time.monotonic()
                    client.post(CHAT, json=body("small")).raise_for_status()
                    assert time.monotonic() - began < 1.0
            deadline = time.monotonic() + 15
            while dropped(installed.proxy) < 40:
                assert time.monotonic() < deadline, dropped(installed.proxy)
                time.sleep(0.1)
            assert dropped(installed.proxy) <= 80
            assert installed.proxy.told("spans_not_taken")["error"]
            assert not [line for line in installed.proxy.lines() if "opentelemetry" in str(line)]
            began = time.monotonic()
            assert installed.proxy.stop() == 0
            assert time.monotonic() - began < 10
            assert len(installed.proxy.events("spans_not_taken")) == 1


def test_a_receiver_that_comes_back_is_sent_what_comes_then(tmp_path: Path) -> None:
    with Receiver() as receiver:
        receiver.status = 400
        with installation(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, **SOON) as installed:
            url = installed.proxy.url + CHAT
            httpx.post(url, json=body("small")).raise_for_status()
            installed.proxy.told("spans_not_taken")
            receiver.status = 200
            httpx.post(url, json=body("small"), headers={"x-request-id": "later"}).raise_for_status()
            receiver.until(of("later"))
            installed.proxy.told("spans_are_taken")


def test_what_finds_no_room_is_counted_and_the_rest_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        receiver.delay = 0.3
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        traces = Traces("test", queue=10)
        for number in range(100):
            traces.begin(f"span {number}", SpanKind.INTERNAL, {}).end()
        traces.close()
        assert traces.dropped + len(receiver.spans) == 100
        assert 10 <= len(receiver.spans) <= 40


@pytest.mark.parametrize("module", ["athena.proxy.app", "athena.orchestrator.app", "athena.admin.app", "athena.cli"])
def test_without_the_setting_nothing_of_it_is_imported(module: str) -> None:
    script = f"import sys, {module}; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    heavy = ["opentelemetry.sdk.trace.export", "opentelemetry.exporter", "google.protobuf", "requests"]
    if module == "athena.proxy.app":  # FastAPI and Redis' client have a look at what there is of it
        heavy.append("opentelemetry")
    assert not [name for name in loaded if name.startswith(tuple(heavy))]


def test_without_the_setting_no_header_and_no_field_tells_of_a_trace(tmp_path: Path) -> None:
    with installation(
        tmp_path, OTEL_SDK_DISABLED="true", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"
    ) as installed:
        headers = {"x-request-id": "untraced", "traceparent": TRACEPARENT}
        httpx.post(installed.proxy.url + CHAT, json=body("small"), headers=headers).raise_for_status()
        assert "trace_id" not in told_of(installed.proxy, "llm_request_completed", "untraced")
        (heard,) = [one.headers for one in installed.engine.heard if one.headers.get("x-request-id") == "untraced"]
        assert "traceparent" not in heard


def test_a_protocol_that_is_not_spoken_is_refused_at_the_start(tmp_path: Path) -> None:
    more = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    done = athena("serve", "proxy", "--port", "0", **more)
    assert done.returncode == 2
    assert "OTEL_EXPORTER_OTLP_PROTOCOL" in done.stderr
    assert "http/protobuf" in done.stderr
