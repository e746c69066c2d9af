"""What a person finds in Loki: a request by its id, in the lines of every service; and never what was said."""

import json
import time
from urllib.parse import urlencode

import pytest
from caller_on_the_host import ADMIN, FOUND_WITHIN_SECONDS, LOKI, ORCHESTRATOR, TOKEN, Caller, Line
from panels import FILLED, asked
from testinfra.host import Host

testinfra_hosts = ["ansible://linux"]
QUESTION = "the-words-of-the-caller"
ANSWER = "the-words-of-the-engine"


@pytest.fixture
def caller(host: Host) -> Caller:
    return Caller(host)


def test_a_callers_request_id_finds_its_lines_of_proxy_and_engine(caller: Caller) -> None:
    assert caller.chat("from-the-proxy-1", QUESTION) == 200
    query = '{environment="test"} | request_id="from-the-proxy-1"'
    lines = caller.found(query, lambda lines: {"proxy", "engine"} <= {labels["app"] for labels, *_ in lines})
    events = {(labels["app"], labels["event"]) for labels, *_ in lines}
    assert events >= {
        ("proxy", "routing_llm_request"),
        ("proxy", "llm_request_completed"),
        ("engine", "engine_request"),
    }


def test_a_callers_request_id_finds_its_lines_of_orchestrator_and_engine(caller: Caller) -> None:
    status, text = caller.ask(
        f"{ORCHESTRATOR}/query", {"query": QUESTION, "mode": "owner"}, X_Request_ID="from-the-orchestrator-1"
    )
    assert status == 200, text
    query = '{environment="test"} | request_id="from-the-orchestrator-1"'
    lines = caller.found(query, lambda lines: {"orchestrator", "engine"} <= {labels["app"] for labels, *_ in lines})
    assert {labels["app"] for labels, *_ in lines} == {"orchestrator", "engine"}


def test_a_callers_request_id_finds_its_line_of_the_admin_api(caller: Caller) -> None:
    identity = f"from-the-admin-api-{time.time_ns()}"
    asked = {"Authorization": f"Bearer {TOKEN}", "X_Request_ID": identity}
    status, text = caller.ask(f"{ADMIN}/api/llm-backends", **asked)
    assert status == 200, text
    lines = caller.found(f'{{environment="test"}} | request_id="{identity}"')
    assert [(labels["app"], labels["event"]) for labels, *_ in lines] == [("admin", "http_request_completed")]


def test_an_event_is_found_by_what_the_line_says(caller: Caller) -> None:
    identity = f"event-{time.time_ns()}"
    assert caller.chat(identity) == 200
    for event in ("routing_llm_request", "llm_request_completed"):
        lines = caller.found(f'{{app="proxy"}} | json | event="{event}" | request_id="{identity}"')
        assert [json.loads(text)["event"] for _, _, text in lines] == [event]
        assert {labels["service"] for labels, *_ in lines} == {"proxy"}


@pytest.fixture
def fallback(host: Host) -> list[Line]:
    """The lines of requests for which an engine failed and another answered, so late that panels show them."""
    caller = Caller(host, hours=0.5)
    row = {"model_name": "falling", "backend_type": "auto", "endpoint_url": "http://127.0.0.1:11434"}
    status, text = caller.ask(f"{ADMIN}/api/llm-backends", row, Authorization=f"Bearer {TOKEN}")
    assert status in (201, 409), text  # there is one already where the tests are run again
    identity = f"falling-{time.time_ns()}"
    numbers = iter(range(1000))

    # The proxy hears of the row a moment later, and asks MLX first from then on.
    def ask_until(lines: list[Line]) -> bool:
        return bool(lines) or caller.chat(f"{identity}-{next(numbers)}", model="falling") != 200

    query = '{app="proxy"} | json | event="mlx_failed_falling_back_to_ollama" | request_id=~"falling-.+"'
    return caller.found(query, ask_until)


def test_a_fallback_is_found_by_its_event(fallback: list[Line]) -> None:
    assert {labels["level"] for labels, *_ in fallback} == {"warning"}


def test_lines_that_are_no_json_are_there_as_they_are(caller: Caller) -> None:
    lines = caller.found('{app="postgresql"} |= "database system is ready to accept connections"')
    assert {labels["app"] for labels, *_ in lines} == {"postgresql"}


def test_the_log_of_a_macs_job_is_found(caller: Caller) -> None:
    lines = caller.found('{app="mlx.tiny"} |= "a line of MLX"')
    assert [(labels["host"], labels["environment"], text) for labels, _, text in lines] == [
        ("mac-1", "test", "a line of MLX")
    ]


def test_streams_are_told_apart_by_a_few_labels_alone(caller: Caller) -> None:
    assert caller.found('{app="proxy"}')
    _, text = caller.ask(f"{LOKI}/loki/api/v1/labels")
    assert sorted(json.loads(text)["data"]) == ["app", "environment", "host", "service"]
    _, text = caller.ask(f"{LOKI}/loki/api/v1/label/app/values")
    assert {"admin", "engine", "orchestrator", "postgresql", "proxy"} <= set(json.loads(text)["data"])


@pytest.mark.usefixtures("fallback")
def test_every_panel_of_the_dashboards_shows_something(caller: Caller) -> None:
    assert caller.chat(FILLED["$request_id"]) == 200
    queries = [one.query for one in asked("loki")]
    assert queries
    for query in queries:
        assert shown(caller, query), query


def test_a_panel_of_one_request_shows_nothing_where_no_id_is_given(caller: Caller) -> None:
    assert caller.found('{app=~".+"} | request_id=""')
    [query] = [one.query for one in asked("loki", request_id="") if one.panel == "The request"]
    assert caller.lines(query) == []


def shown(caller: Caller, query: str) -> bool:
    """Wait until Loki has an answer to what a panel asks; return whether it has one in the end."""
    until = time.monotonic() + FOUND_WITHIN_SECONDS
    while True:
        status, text = caller.ask(f"{LOKI}/loki/api/v1/query_range?{urlencode({'query': query, 'limit': 10})}")
        assert status == 200, f"{query}: {text}"
        if json.loads(text)["data"]["result"] or time.monotonic() > until:
            return bool(json.loads(text)["data"]["result"])
        time.sleep(1)


def test_prompts_and_answers_are_in_no_line(caller: Caller, host: Host) -> None:
    assert caller.chat("a-secret-question", f"{QUESTION} again") == 200
    assert caller.found('{app="proxy"} | request_id="a-secret-question"')
    for words in (QUESTION, ANSWER):
        assert caller.lines(f'{{app=~".+"}} |= "{words}"') == []
        assert host.run(f"grep -r {words} /var/lib/athena/logs /var/log/postgresql").rc == 1


def test_what_loki_keeps_is_nobody_elses(host: Host) -> None:
    for folder, user in (("/var/lib/athena-loki", "_athena_loki"), ("/var/lib/athena-log-collector", "_athena_logs")):
        assert (host.file(folder).user, host.file(folder).mode) == (user, 0o700)
    assert host.file("/etc/athena/loki.yaml").mode == 0o640
    listening = host.check_output("ss --no-header --listening --tcp --numeric --processes")
    addresses = {line.split()[3] for line in listening.splitlines() if '"loki"' in line or '"otelcol"' in line}
    # Where there is IPv6, Loki listens to both.
    assert {address.replace("*:", "0.0.0.0:") for address in addresses} == {
        "0.0.0.0:3100",
        "127.0.0.1:4318",
        "127.0.0.1:9096",
        "127.0.0.1:8889",
    }


def test_the_collector_tells_of_itself(caller: Caller) -> None:
    status, text = caller.ask("http://127.0.0.1:8889/metrics")
    assert status == 200
    assert "otelcol_exporter_queue_size" in text
    assert "otelcol_exporter_sent_log_records" in text
