"""What `status` says of the signals that alerts judge as well."""

import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml
from loading import ROOT, load

signals = load("plugins/filter/signals.py")
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
CAUSES = yaml.safe_load((ROOT / "roles/prometheus/files/rules/causes.yml").read_text())
ALERTS = {rule["alert"]: rule["expr"] for group in CAUSES["groups"] for rule in group["rules"] if "alert" in rule}


def backend(number: int | None, state: str, reason: str = "") -> dict[str, Any]:
    return {
        "id": number,
        "model": "m",
        "engine": "mlx",
        "endpoint": "http://192.0.2.31:8080",
        "state": state,
        "reason": reason,
    }


def host(age: float = 10, **engine: Any) -> dict[str, Any]:
    report = {"engines": [{"name": "llama", "state": "healthy", "given_up_at": None, **engine}]}
    received_at = (NOW - timedelta(seconds=age)).isoformat().replace("+00:00", "Z")
    return {"name": "mac-1", "received_at": received_at, "report": report}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"status": "healthy", "components": {"redis": "memory"}}, []),
        (
            {"status": "degraded", "detail": "The Admin API is out of reach.", "components": {"registry": "away"}},
            ["proxy is not healthy: The Admin API is out of reach"],
        ),
        (
            {"status": "degraded", "components": {"llm_router": "healthy", "redis": "unreachable"}},
            ["proxy is not healthy: redis: unreachable"],
        ),
        ({"status": "starting"}, ["proxy is not healthy: starting"]),
        ({}, ["proxy is not healthy: no answer"]),
        (None, ["proxy is not healthy: no answer"]),
    ],
)
def test_a_service_that_is_not_healthy_is_told_with_the_cause(answer: dict[str, Any] | None, told: list[str]) -> None:
    assert signals.service_problems({"proxy": answer}) == told


def test_a_backend_that_is_left_out_is_told_with_the_reason() -> None:
    found = [backend(1, "closed"), backend(2, "open", "hung"), backend(3, "half_open", "failing")]
    found.append(backend(None, "open", "unreachable"))
    assert signals.backend_problems(found) == [
        "backend 2 (m: mlx at http://192.0.2.31:8080) is left out of its route: hung",
        "backend 3 (m: mlx at http://192.0.2.31:8080) is left out of its route: failing",
    ]
    assert signals.backend_problems([]) == []


@pytest.mark.parametrize(
    ("reported", "told"),
    [
        (host(), []),
        (host(state="busy"), []),
        (host(state="suspect"), []),
        (host(state="starting"), []),
        (host(state="hung"), ["engine llama on mac-1 takes requests and generates nothing"]),
        (host(state="down"), ["engine llama on mac-1 does not listen"]),
        (host(state="wrong_model"), ["engine llama on mac-1 serves another model than the one declared"]),
        (
            host(state="hung", given_up_at="2026-11-26T11:00:00Z"),
            ["engine llama on mac-1 hangs after each restart, and is given up"],
        ),
        (host(age=299, state="healthy"), []),
        (host(age=301, state="hung"), ["host mac-1 has reported nothing for 301 s"]),
    ],
)
def test_a_host_that_is_silent_and_an_engine_that_does_not_serve_are_told(reported: Any, told: list[str]) -> None:
    assert signals.host_problems([reported], NOW) == told


def backup(number: int, hours: float, **said: Any) -> dict[str, Any]:
    return {"id": f"b{number}", "made_at": (NOW - timedelta(hours=hours)).isoformat(), **said}


PROVEN = {"proven_at": NOW.isoformat()}
NOT_PROVEN = {"proven_at": None}


@pytest.mark.parametrize(("hours", "told"), [(25.9, []), (26.1, ["26"]), (51, ["51"])])
@pytest.mark.parametrize("said", [PROVEN, {}], ids=["now", "by a program of before"])
def test_a_backup_that_is_too_old_is_told(hours: float, told: list[str], said: dict[str, Any]) -> None:
    assert signals.backup_problems([backup(6, 99, **said), backup(7, hours, **said)], NOW) == [
        f"the last good backup, b7, is {age} hours old; one is made and proven each night" for age in told
    ]
    assert signals.backup_problems([], NOW) == []


def test_a_backup_that_was_not_proven_does_not_count() -> None:
    new = [backup(number, 48 - number, **NOT_PROVEN) for number in (8, 9)]
    assert signals.backup_problems([backup(7, 27, **PROVEN), backup(8, 1, **NOT_PROVEN)], NOW) == [
        "the last good backup, b7, is 27 hours old; one is made and proven each night"
    ]
    assert signals.backup_problems([backup(7, 25, **PROVEN), *new], NOW) == []
    assert signals.backup_problems(new, NOW) == ["there are backups, the newest is b9, and none was proven"]


class AdminApi(BaseHTTPRequestHandler):
    """Unhealthy, and with one host for whoever has the token."""

    def do_GET(self) -> None:
        status: int
        value: Any
        if self.path == "/health":
            status, value = 503, {"status": "unhealthy"}
        elif self.headers["authorization"] == "Bearer a-token":
            status, value = 200, [{"name": "mac-1"}]
        else:
            status, value = 401, {"status": 401}
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_the_question_to_pods_asks_for_health_and_with_the_token_for_the_hosts() -> None:
    applications = yaml.safe_load((ROOT / "group_vars/cluster/applications.yml").read_text())
    with ThreadingHTTPServer(("127.0.0.1", 0), AdminApi) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        command = [sys.executable, "-c", applications["athena_health_question"], f"{url}/health", f"{url}/api/hosts"]
        environment = {"ADMIN_API_TOKEN": "a-token"}
        asked = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
        server.shutdown()
    answers = [json.loads(line) for line in asked.stdout.splitlines()]
    assert answers == [{"status": "unhealthy"}, {"hosts": [{"name": "mac-1"}]}]
    gone = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    no_answer = {"status": "no answer"}
    assert [json.loads(line) for line in gone.stdout.splitlines()] == [no_answer, {"hosts": no_answer}]


def test_the_alerts_judge_by_the_same_states_and_times() -> None:
    judged = {"EngineHangs": "hung", "EngineAway": "down", "EngineServesAnotherModel": "wrong_model"}
    assert set(judged.values()) == set(signals.BAD_STATES)
    for alert, state in judged.items():
        assert f'athena_engine_state{{state="{state}"}}' in ALERTS[alert]
    assert f"athena_host_report_age_seconds) > {signals.SILENT_SECONDS}" in ALERTS["HostDoesNotReport"]
    assert f"athena_backup_timestamp_seconds) > {signals.BACKUP_HOURS} * 3600" in ALERTS["BackupTooOld"]
    assert "athena_engine_given_up" in ALERTS["EngineGivenUp"]
    assert 'athena_backend_state{state="closed", backend_id!="default"}' in ALERTS["BreakerOpenLong"]
