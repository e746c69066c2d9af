"""What `status` says of parts that end and are started anew over and over."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from loading import ROOT, load

restarts = load("plugins/filter/restarts.py")
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
CAUSES = yaml.safe_load((ROOT / "roles/prometheus/files/rules/causes.yml").read_text())
ALERTS = {rule["alert"]: rule["expr"] for group in CAUSES["groups"] for rule in group["rules"] if "alert" in rule}


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def text(minutes: float) -> str:
    return ago(minutes).isoformat().replace("+00:00", "Z")


@pytest.fixture(autouse=True)
def elsewhere() -> Iterator[None]:
    """A machine whose clock shows another time than UTC, as the supervisor's log does then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        yield
    time.tzset()


def log_of(*ends: tuple[float, str, str], how: str = "not expected") -> str:
    """Return the supervisor's log of programs that ended so many minutes ago."""
    lines = []
    for minutes, name, ended in ends:
        at = ago(minutes).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        lines.append(f"{at},123 INFO exited: {name} ({ended}; {how})")
        lines.append(f"{at},456 INFO spawned: '{name}' with pid 17")
        lines.append(f"{at},789 INFO success: {name} entered RUNNING state, process has stayed up for > than 1 seconds")
    return "\n".join(lines) + "\n"


def test_a_program_that_crashes_over_and_over_is_told_with_how_it_ended_and_what_to_look_at() -> None:
    log = log_of((30, "proxy", "exit status 1"), (20, "proxy", "exit status 1"), (1, "proxy", "terminated by SIGSEGV"))
    found = restarts.supervisor_restarts(log + log_of((2, "mlx", "exit status 3")), {}, "dev", NOW)
    assert [(one["part"], one["restarts"], one["loops"]) for one in found] == [("proxy", 3, True), ("mlx", 1, False)]
    (told,) = restarts.restart_problems(found)
    assert told.startswith("proxy restarts over and over: 3 times since 2026-11-27T11:30:00Z, its last end: ")
    assert told.endswith("terminated by SIGSEGV (see ./deploy.sh dev logs proxy)")


@pytest.mark.parametrize(
    ("minutes", "how", "declared", "loops"),
    [
        ((30, 20), "not expected", None, [False]),
        ((30, 20, 10), "not expected", None, [True]),
        ((30, 20, 10), "expected", None, [True]),
        ((90, 80, 61), "not expected", None, [False]),
        ((500, 400, 361), "not expected", None, []),
        ((30, 20, 10), "not expected", 15, [False]),
        ((30, 20, 10), "not expected", 5, []),
        ((), "not expected", None, []),
    ],
    ids=["twice", "three-times", "without-error", "settled", "long-ago", "declared-since", "all-before", "nothing"],
)
def test_which_programs_loop(minutes: tuple[float, ...], how: str, declared: float | None, loops: list[bool]) -> None:
    log = log_of(*((one, "a", "exit status 0") for one in minutes), how=how)
    written = {"a": ago(declared).timestamp()} if declared else {}
    assert [one["loops"] for one in restarts.supervisor_restarts(log, written, "dev", NOW)] == loops


def test_a_program_that_was_stopped_has_not_ended_by_itself() -> None:
    log = log_of(*((one, "a", "terminated by SIGTERM") for one in (30, 20, 10)))
    assert restarts.supervisor_restarts(log.replace("exited: ", "stopped: "), {}, "dev", NOW) == []


def pod(count: int, *, ran: float = 1, ended: float = 5, waiting: str = "", **meta: str) -> dict[str, Any]:
    """Return a pod whose container was started `count` times anew, the last `ended` minutes ago after `ran` minutes."""
    terminated = {
        "exitCode": 137,
        "reason": "OOMKilled",
        "startedAt": text(ended + ran),
        "finishedAt": text(ended),
    }
    state = {"waiting": {"reason": waiting}} if waiting else {"running": {"startedAt": text(ended)}}
    container = {"name": "c", "restartCount": count, "state": state, "lastState": {"terminated": terminated}}
    return {
        "metadata": {"name": "athena-model-proxy-x", "namespace": "athena", **meta},
        "status": {"startTime": text(600), "containerStatuses": [container]},
    }


def test_a_pod_that_crashes_over_and_over_is_told_in_the_moment_that_it_runs() -> None:
    (told,) = restarts.restart_problems(restarts.pod_restarts([pod(7)], NOW))
    assert told.startswith("pod athena-model-proxy-x restarts over and over: 7 times since 2026-11-27T02:00:00Z, ")
    assert "its last end: exit code 137 (OOMKilled)" in told
    assert told.endswith("(see kubectl --namespace athena logs --previous athena-model-proxy-x)")


@pytest.mark.parametrize(
    ("one", "loops"),
    [
        (pod(2), [False]),
        (pod(1, waiting="CrashLoopBackOff"), [True]),
        (pod(9, ended=400, waiting="CrashLoopBackOff"), [True]),
        (pod(3, ran=60 * 24), [False]),
        (pod(3, ended=61), [False]),
        (pod(3, ended=361), []),
        (pod(0), []),
        (pod(7, deletionTimestamp=text(1)), []),
        ({"metadata": {"name": "a", "namespace": "b"}, "status": {}}, []),
    ],
    ids=["twice", "held-back", "held-back-long", "after-a-day", "settled", "long-ago", "never", "leaving", "not-yet"],
)
def test_which_pods_loop(one: dict[str, Any], loops: list[bool]) -> None:
    assert [found["loops"] for found in restarts.pod_restarts([one], NOW)] == loops


def test_an_engine_that_its_agent_saw_replaced_over_and_over_is_told() -> None:
    replaced = [text(minutes) for minutes in (500, 50, 40, 3)]
    engine = {"name": "llama", "job": "system/com.athena.mlx.llama", "last_end": "Killed: 9", "replaced_at": replaced}
    older = {"name": "phi", "job": None, "state": "healthy"}
    found = restarts.engine_restarts([{"name": "mac-1", "report": {"engines": [engine, older]}}], NOW)
    (told,) = restarts.restart_problems(found)
    assert told.startswith("engine llama on mac-1 restarts over and over: 3 times since 2026-11-27T11:10:00Z, ")
    assert "its last end: Killed: 9 (see `sudo launchctl print system/com.athena.mlx.llama` and" in told


def line(minutes: float, message: str, unit: str, **more: str) -> str:
    at = str(int(ago(minutes).timestamp() * 1e6))
    return json.dumps({"__REALTIME_TIMESTAMP": at, "MESSAGE_ID": message, "UNIT": unit, **more})


def test_an_engines_unit_that_systemd_starts_anew_over_and_over_is_told() -> None:
    lines = []
    for minutes in (9, 6, 3):
        for unit in ("athena-ollama.service", "athena-ollama-share.service", "cron.service"):
            end = {"EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}
            lines += [
                line(minutes, restarts.PROCESS_ENDED, unit, **end),
                line(minutes, restarts.UNIT_STARTED_ANEW, unit),
            ]
    lines.append(line(2, restarts.PROCESS_ENDED, "athena-mlx-phi.service", EXIT_CODE="exited", EXIT_STATUS="1"))
    found = restarts.unit_restarts("\n".join(lines), "gpu-1", NOW)
    (told,) = restarts.restart_problems(found)
    assert told.startswith(
        "athena-ollama.service on gpu-1 restarts over and over: 3 times since 2026-11-27T11:51:00Z, "
    )
    assert told.endswith("its last end: killed, KILL (see `journalctl -u athena-ollama.service` on gpu-1)")
    assert restarts.unit_restarts("", "a-mac", NOW) == []


def test_hosts_are_asked_for_these_messages_and_the_alerts_judge_by_the_same_numbers() -> None:
    (look,) = (
        play for play in yaml.safe_load((ROOT / "playbooks/status.yml").read_text()) if play["hosts"] == "engines"
    )
    asked = look["tasks"][0]["ansible.builtin.command"]["argv"]
    assert {f"MESSAGE_ID={one}" for one in (restarts.UNIT_STARTED_ANEW, restarts.PROCESS_ENDED)} < set(asked)
    assert f"--since=-{restarts.RESTART_HOURS}hours" in asked
    for alert in ("EngineRestartsOften", "EngineUnitRestartsOften"):
        assert f"[{restarts.RESTART_HOURS}h]" in ALERTS[alert]
        assert f">= {restarts.RESTARTS}" in ALERTS[alert]


def test_a_restart_that_has_no_end_of_its_own_is_told_as_that() -> None:
    (one,) = restarts.unit_restarts(line(1, restarts.UNIT_STARTED_ANEW, "athena-ollama.service"), "gpu-1", NOW)
    assert "its last end: unknown" in restarts.restart_problems([{**one, "loops": True}])[0]
