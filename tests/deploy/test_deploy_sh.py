"""The life of one dev environment, from failed attempts to its end. The tests build on each other, in order."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
import pytest
from changes import add_migration
from scratch import Environment, wait_until

pytestmark = pytest.mark.timeout(600)
STARTS_WITHIN_SECONDS = 60.0  # what imports all of MLX may take that long on a busy machine

NOWHERE = "http://127.0.0.1:9/simple"
NEW_REVISION, FINAL_REVISION, BREAKING_REVISION = "0a1b2c3d4e5f", "1a1b2c3d4e5f", "2a1b2c3d4e5f"


# --- before the first deployment ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["elsewhere", "deploy"], "elsewhere"),
        (["dev", "explode"], "explode"),
        (["dev"], "action"),
        (["dev", "deploy", "--loudly"], "--loudly"),
        (["production", "deploy", "-e", "athena_database_url=postgresql://u:p@h/d"], "ATHENA_DATABASE_URL"),
        (["production", "deploy", "-e", "athena_replicas=1 athena_proxy_key=k"], "athena_proxy_key in an argument"),
        (["staging", "deploy", "-e", "ansible_become_password=p"], "ansible_become_password in an argument"),
        (["staging", "fleet", "-e", "athena_agent_token=t"], "athena_agent_token in an argument"),
        (
            ["staging", "monitoring", "-e", "athena_monitored_redis_password=p"],
            "athena_monitored_redis_password in an argument",
        ),
        (
            ["staging", "deploy", "-e", "container_image_index_url=https://user:password@mirror.example/simple"],
            "container_image_index_url in an argument",
        ),
        (
            ["staging", "deploy", "-e", "athena_replicas=1 ollama_url=https://token@index.example.internal/"],
            "ollama_url in an argument",
        ),
        (["dev", "logs", "--json"], "logs takes no --json"),
        (["dev", "status", "-v", "--json"], "leave out -v, or --json"),
        (["production", "releases", "--json", "-vvv"], "leave out -v, or --json"),
        (["staging", "verify", "--json", "-v"], "leave out -v, or --json"),
        (["staging", "backup", "-vv", "--json"], "leave out -v, or --json"),
        (["production", "plan", "--json", "-v"], "leave out -v, or --json"),
        (["production", "update", "proxy"], "update needs COMPONENT and VERSION, or neither"),
        (["dev", "rollback", "--go-on"], "rollback takes no --go-on"),
        (["staging", "fleet", "--go-on"], "fleet takes no --go-on"),
        (["dev", "plan", "--go-on"], "plan takes no --go-on"),
        (["production", "update", "proxy", "r1", "--go-on"], "update COMPONENT VERSION takes no --go-on"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_done(
    environment: Environment, arguments: list[str], words: str
) -> None:
    done = subprocess.run(
        [environment.clone / "deploy.sh", *arguments], capture_output=True, text=True, check=False, timeout=10
    )
    assert done.returncode == 2
    assert words in done.stderr


def test_too_old_a_python_is_refused_with_the_remedy(environment: Environment, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo "Python 3.9.2"; else exit 1; fi\n')
    old.chmod(0o755)
    done = environment.run("deploy", ATHENA_PYTHON=str(old))
    assert done.code == 1
    assert "3.11 or newer" in done.output
    assert "3.9.2" in done.output
    assert not (environment.clone / ".venv").exists()
    assert not environment.state.exists()


def test_without_a_package_registry_nothing_is_begun(environment: Environment) -> None:
    done = environment.run("deploy", PIP_INDEX_URL=NOWHERE, UV_DEFAULT_INDEX=NOWHERE)
    assert done.code == 1
    assert "PIP_INDEX_URL" in done.output
    assert not (environment.clone / ".venv").exists()
    assert not environment.state.exists()


# --- deployments ----------------------------------------------------------------------------------


def test_the_first_deployment_answers_a_question(environment: Environment) -> None:
    done = environment.run("deploy")
    assert done.code == 0, done.output
    for part in ("admin", "proxy", "orchestrator"):
        assert environment.url(part) in done.output
    assert "tokens/s" in done.output
    assert environment.is_well()


def test_the_second_deployment_changes_nothing(environment: Environment) -> None:
    done = environment.run("deploy")
    assert done.code == 0, done.output
    assert done.changed == 0
    assert len(environment.releases()) == 1


def test_a_deployment_tells_programs_what_it_did_in_its_last_line(environment: Environment) -> None:
    done = environment.run("deploy", "--json")
    assert done.code == 0, done.output
    said = json.loads(done.output.splitlines()[-1])
    assert (said["exit_code"], said["outcome"], said["problems"]) == (0, "done", [])
    assert (said["release"], said["recorded"]) == ("r1", None)
    assert [step["step"] for step in said["steps"]][:2] == ["package", "database"]
    assert 0 < sum(step["seconds"] for step in said["steps"]) <= said["seconds"]


@pytest.mark.long
def test_prometheus_runs_beside_the_services_where_it_is_asked_for_and_sees_them_all(environment: Environment) -> None:
    of_before = environment.state / "prometheus/rules/own-of-before.yml"
    of_before.parent.mkdir(parents=True)
    of_before.write_text("groups: []\n")
    done = environment.run("deploy", "--with-monitoring")
    assert done.code == 0, done.output
    assert not of_before.exists(), "no rule is left that is not declared any more"
    assert f"http://127.0.0.1:{environment.prometheus_port}" in done.output
    jobs = {"admin", "proxy", "orchestrator", "prometheus"}
    wait_until(lambda: jobs_that_are_up(environment) == jobs, 60)
    again = environment.run("deploy", "--with-monitoring")
    assert (again.code, again.changed) == (0, 0), again.output
    assert len(environment.releases()) == 1


def jobs_that_are_up(environment: Environment) -> set[str]:
    url = f"http://127.0.0.1:{environment.prometheus_port}/api/v1/query"
    answer = httpx.get(url, params={"query": "up == 1"}, timeout=5).json()
    return {one["metric"]["job"] for one in answer["data"]["result"]}


def test_a_plan_before_the_first_deployment_tells_what_it_would_do_and_does_nothing(other: Environment) -> None:
    done = other.run("plan")
    assert done.code == 7, done.output
    assert "Declare to the supervisor: admin, proxy, orchestrator" in done.output
    assert not other.state.exists()


def test_a_plan_says_that_there_is_nothing_to_do(environment: Environment) -> None:
    done = environment.run("plan")
    assert done.code == 0, done.output
    assert "release r1 is in force" in done.output


def test_a_plan_tells_what_another_setting_would_change_and_no_secret(environment: Environment) -> None:
    setting = ("-e", f"athena_mlx_port={environment.ports['mlx'] + 1}")
    done = environment.run("plan", "-vv", *setting)
    assert done.code == 7, done.output
    assert f"+ backend random-weights at http://127.0.0.1:{environment.ports['mlx'] + 1}" in done.output
    assert [path.name for path in environment.secrets() if path.read_text().strip() in done.output] == []
    listed = environment.run("plan", "--json", *setting)
    assert listed.code == 7, listed.output
    assert {change["role"] for change in json.loads(listed.output)} == {"supervised_service", "registration"}
    assert environment.is_well()
    assert len(environment.releases()) == 1


def test_plan_and_status_tell_of_a_backend_that_was_changed_by_hand_and_a_deployment_puts_it_right(
    environment: Environment,
) -> None:
    token = (environment.state / "secrets" / "admin-token").read_text().strip()
    with httpx.Client(base_url=environment.url("admin"), headers={"Authorization": f"Bearer {token}"}) as admin:
        (declared,) = admin.get("/api/llm-backends").json()
        theirs = {"model_name": "theirs", "backend_type": "openai", "endpoint_url": "http://localhost:9"}
        admin.post("/api/llm-backends", json=theirs).raise_for_status()
        admin.put(f"/api/llm-backends/{declared['id']}", json={"max_tokens": 7}).raise_for_status()
        where = f"random-weights at {environment.url('mlx')}"
        plan = environment.run("plan")
        assert plan.code == 7, plan.output
        assert f"~ backend {where}: max_tokens 7 becomes {declared['max_tokens']}" in plan.output
        assert "theirs" not in plan.output
        status = environment.run("status")
        assert status.code == 8, status.output
        assert f"registry: backend {where}: max_tokens is 7, not {declared['max_tokens']}" in status.output
        done = environment.run("deploy")
        assert (done.code, done.changed) == (0, 1), done.output
        listed = {row["model_name"]: row for row in admin.get("/api/llm-backends").json()}
        assert listed["random-weights"]["max_tokens"] == declared["max_tokens"]
        admin.delete(f"/api/llm-backends/{listed['theirs']['id']}").raise_for_status()


def test_ports_in_use_are_refused_with_the_remedy(environment: Environment, other: Environment) -> None:
    other.variables.write_text(environment.variables.read_text())
    done = other.run("deploy", "-e", f"athena_state_dir={other.state}")
    assert done.code == 1
    assert [port for port in environment.ports.values() if f"Port {port}" not in done.output] == []
    assert "athena_proxy_port" in done.output
    assert not other.state.exists()
    assert environment.is_well()


def test_a_folder_with_files_of_somebody_else_is_left_alone(other: Environment, tmp_path: Path) -> None:
    (tmp_path / "diary").touch()
    done = other.run("deploy", "-e", f"athena_state_dir={tmp_path}")
    assert done.code == 1
    assert f"{tmp_path} holds files" in done.output
    assert "athena_state_dir=FOLDER" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["diary"]


def test_a_registry_that_is_gone_after_the_tools_were_installed_is_found_too(other: Environment) -> None:
    done = other.run("deploy", PIP_INDEX_URL=NOWHERE, UV_DEFAULT_INDEX=NOWHERE)
    assert done.code == 1
    assert "registry" in done.output
    assert not other.state.exists()


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("status", ["admin", "proxy", "orchestrator", "mlx", "postgresql", "r1"]),
        ("verify", ["What is 2+2?", "tokens/s"]),
        ("releases", ["r1", "in force"]),
    ],
)
def test_an_action_that_only_looks_tells_and_changes_nothing(
    environment: Environment, action: str, words: list[str]
) -> None:
    done = environment.run(action)
    assert done.code == 0, done.output
    assert [word for word in words if word not in done.output] == []


def test_status_tells_of_an_engine_that_its_host_calls_hung_as_the_alert_does(environment: Environment) -> None:
    now = datetime.now(UTC).isoformat()
    engine = {"name": "llama", "kind": "mlx", "url": "http://127.0.0.1:9", "model": "m", "state": "hung", "since": now}
    report = {"at": now, "version": "0.1.0", "figures": {}, "engines": [engine]}
    token = (environment.state / "secrets" / "admin-token").read_text().strip()
    with httpx.Client(base_url=environment.url("admin"), headers={"Authorization": f"Bearer {token}"}) as admin:
        admin.put("/api/hosts/a-mac", json=report).raise_for_status()
        done = environment.run("status")
        admin.delete("/api/hosts/a-mac").raise_for_status()
    assert done.code == 8, done.output
    assert "engine llama on a-mac takes requests and generates nothing" in done.output
    assert environment.run("status").code == 0


def test_a_program_whose_action_is_refused_is_told_so(environment: Environment) -> None:
    done = environment.run("backup", "--json")
    assert done.code == 1, done.output
    said = json.loads(done.output.splitlines()[-1])
    assert (said["exit_code"], said["outcome"], said["recorded"]) == (1, "failed, nothing changed", None)
    assert "has no backups" in said["problems"][0]


def test_verify_tells_programs_who_answered(environment: Environment) -> None:
    done = environment.run("verify", "--json")
    assert done.code == 0, done.output
    said = json.loads(next(line for line in done.output.splitlines() if line.startswith('{"')))
    assert said["problems"] == []
    assert [(engine["engine"], engine["place"], engine["passed"]) for engine in said["engines"]] == [
        ("mlx", "first", True)
    ]
    assert all(question["passed"] and question["seconds"] > 0 for question in said["questions"].values())


def test_the_logs_of_one_component_are_shown(environment: Environment) -> None:
    done = environment.run("logs", "proxy")
    assert done.code == 0, done.output
    assert "routing_llm_request" in done.output


# --- failures while it runs -----------------------------------------------------------------------


@pytest.mark.parametrize("part", ["admin", "proxy", "orchestrator", "mlx", "postgresql"])
def test_a_killed_process_is_started_again_within_five_seconds_and_is_well(environment: Environment, part: str) -> None:
    killed = environment.pid(part)
    os.kill(killed, signal.SIGKILL)
    wait_until(partial(is_another, environment, part, killed), 5.0)
    wait_until(environment.is_well, STARTS_WITHIN_SECONDS)


def test_status_tells_of_a_process_that_ends_over_and_over_in_the_moment_that_it_runs(environment: Environment) -> None:
    for _ in range(3):
        killed = environment.pid("orchestrator")
        os.kill(killed, signal.SIGKILL)
        wait_until(partial(is_another, environment, "orchestrator", killed), 10.0)
    wait_until(environment.is_well, STARTS_WITHIN_SECONDS)
    done = environment.run("status")
    assert done.code == 8, done.output
    assert re.search(
        r"Unhealthy: orchestrator restarts over and over: [34] times since \S+, its last end: ", done.output
    )
    assert "terminated by SIGKILL (see ./deploy.sh dev logs orchestrator)" in done.output
    said = json.loads(
        next(line for line in environment.run("status", "--json").output.splitlines() if line[:2] == '{"')
    )
    assert [one["part"] for one in said["restarts"] if one["loops"]] == ["orchestrator"]
    assert {one["part"] for one in said["restarts"]} >= {"admin", "proxy"}, "once is told, and is no problem"
    (environment.state / "supervisor/programs/orchestrator.conf").touch()
    assert environment.run("status").code == 0, "what was before its declaration is over"


def test_a_killed_supervisor_is_back_within_five_seconds_and_then_everything(environment: Environment) -> None:
    killed = environment.pid("supervisor")
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: is_another(environment, "supervisor", killed), 5.0)
    wait_until(environment.is_well, STARTS_WITHIN_SECONDS)


def is_another(environment: Environment, part: str, killed: int) -> bool:
    try:
        return environment.pid(part) != killed
    except (AssertionError, FileNotFoundError):
        return False


def test_a_query_without_an_engine_gets_503_with_a_time_to_retry(environment: Environment) -> None:
    os.kill(environment.pid("mlx"), signal.SIGKILL)
    began = time.monotonic()
    reply = environment.ask()
    assert reply.status_code == httpx.codes.SERVICE_UNAVAILABLE, reply.text
    assert int(reply.headers["Retry-After"]) > 0
    assert time.monotonic() - began < 5
    wait_until(environment.is_well, STARTS_WITHIN_SECONDS)


# --- update and rollback --------------------------------------------------------------------------


def test_an_update_that_cannot_run_is_taken_back(environment: Environment) -> None:
    source = environment.clone / "service" / "src" / "athena" / "orchestrator" / "app.py"
    sound = source.read_text()
    source.write_text(sound + "\nraise RuntimeError('of a test')\n")
    done = environment.run("update", "--json")
    source.write_text(sound)
    assert done.code == 3, done.output
    said = json.loads(done.output.splitlines()[-1])
    assert (said["exit_code"], said["outcome"], said["release"]) == (3, "failed, taken back", "r1")
    assert said["recorded"] == "r2"
    assert "orchestrator" in said["problems"][0]
    assert environment.is_well()
    assert [release["outcome"] for release in environment.releases()] == ["in force", "failed, taken back"]


def test_one_component_of_another_version_is_refused_on_one_machine(environment: Environment) -> None:
    before = environment.releases()
    done = environment.run("update", "proxy", "r1")
    assert done.code == 1, done.output
    assert "On one machine all services are of one version; nothing was changed." in done.output
    assert environment.releases() == before


def test_an_update_brings_code_and_schema_forward(environment: Environment) -> None:
    add_migration(environment.clone, NEW_REVISION, after=environment.schema())
    done = environment.run("update")
    assert done.code == 0, done.output
    assert environment.schema() == NEW_REVISION
    assert environment.is_well()


def test_a_rollback_brings_code_and_schema_back(environment: Environment) -> None:
    first = environment.releases()[0]
    done = environment.run("rollback")
    assert done.code == 0, done.output
    assert environment.schema() == first["content"]["schema"]
    assert environment.releases()[-1]["content"]["version"] == first["content"]["version"]
    assert environment.is_well()


@pytest.mark.long
def test_a_rollback_over_a_migration_that_cannot_go_back_leaves_the_schema_where_the_older_code_runs_on_it(
    environment: Environment,
) -> None:
    add_migration(environment.clone, FINAL_REVISION, after=NEW_REVISION, reversible=False)
    before = environment.releases()[-1]
    refused = environment.run("update")
    assert refused.code == 6, refused.output
    assert "--allow-irreversible" in refused.output
    assert FINAL_REVISION in refused.output
    assert environment.schema() != FINAL_REVISION
    assert environment.is_well()
    allowed = environment.run("update", "--allow-irreversible")
    assert allowed.code == 0, allowed.output
    done = environment.run("rollback")
    assert done.code == 0, done.output
    assert f"The schema stays at {FINAL_REVISION}" in done.output
    assert environment.schema() == FINAL_REVISION
    assert environment.releases()[-1]["content"]["version"] == before["content"]["version"]
    status = environment.run("status")
    assert status.code == 0, status.output
    assert environment.run("plan").code == 7, "the newer code is still to be deployed"


@pytest.mark.long
def test_a_rollback_over_a_migration_that_the_older_code_does_not_run_on_is_left_to_a_person(
    environment: Environment,
) -> None:
    add_migration(
        environment.clone, BREAKING_REVISION, after=FINAL_REVISION, reversible=False, previous_code_runs=False
    )
    assert environment.run("update", "--allow-irreversible").code == 0
    before = environment.releases()
    done = environment.run("rollback")
    assert done.code == 6, done.output
    assert BREAKING_REVISION in done.output
    assert f"from before {before[-1]['since']}" in done.output
    assert environment.releases() == before
    assert environment.schema() == BREAKING_REVISION
    assert environment.is_well()


def test_a_rollback_to_an_unknown_release_is_refused(environment: Environment) -> None:
    done = environment.run("rollback", "r99")
    assert done.code == 1
    assert "r99" in done.output


# --- the lock -------------------------------------------------------------------------------------


def test_where_a_deployment_was_killed_the_next_is_refused_with_both_ways_until_it_is_told_to_go_on(
    environment: Environment,
) -> None:
    kill_as_soon_as_it_has_begun(environment, but_first=lambda: environment.run("deploy").code == 5)
    journal = environment.state / "lock" / "journal.json"
    before, releases = journal.read_text(), environment.releases()
    step, in_force = json.loads(before)["steps"][-1]["step"], releases[-1]["id"]
    ways = [
        f"which was to replace release {in_force}, stopped in its step '{step}'",
        f"`./deploy.sh ENVIRONMENT rollback` goes back to release {in_force}",
        "`./deploy.sh ENVIRONMENT deploy --go-on` goes on from there",
    ]
    status = environment.run("status")
    refused = environment.run("deploy")
    plan = environment.run("plan")
    assert (status.code, refused.code, plan.code) == (8, 5, 5), refused.output
    assert [way for way in ways for told in (status, refused, plan) if way not in told.output] == []
    assert (journal.read_text(), environment.releases()) == (before, releases)
    said = json.loads(environment.run("update", "--json").output.splitlines()[-1])
    assert (said["exit_code"], said["outcome"], said["recorded"]) == (5, "locked", None)
    assert "`./deploy.sh ENVIRONMENT update --go-on`" in said["problems"][0]
    again = environment.run("deploy", "--go-on")
    assert again.code == 0, again.output
    assert "Going on where the 'deploy'" in again.output
    assert environment.run("status").code == 0
    ordinary = environment.run("deploy", "--go-on")
    assert (ordinary.code, ordinary.changed) == (0, 0), ordinary.output


@pytest.mark.long
def test_where_deploy_sh_alone_is_told_to_end_its_playbook_ends_first_and_a_rollback_goes_back(
    environment: Environment,
) -> None:
    journal = environment.state / "lock" / "journal.json"
    before = environment.releases()[-1]
    with environment.start("deploy") as run:
        wait_until(lambda: journal.exists() and json.loads(journal.read_text())["steps"] != [], 60)
        run.terminate()
        run.communicate()
    assert run.returncode == 128 + signal.SIGTERM
    processes = ",".join(json.loads(journal.read_text())["processes"])
    living = subprocess.run(["ps", "-o", "args=", "-p", processes], capture_output=True, text=True, check=False)
    assert living.stdout == ""
    assert environment.run("deploy").code == 5
    back = environment.run("rollback")
    assert back.code == 0, back.output
    assert environment.releases()[-1]["content"]["version"] == before["content"]["version"]
    assert environment.run("status").code == 0


@pytest.mark.long
def test_the_lock_of_a_killed_run_can_be_removed_and_what_is_half_done_is_known_until_it_is_mended(
    environment: Environment,
) -> None:
    kill_as_soon_as_it_has_begun(environment, but_first=lambda: environment.run("unlock").code == 5)
    assert environment.run("plan").code == 5
    assert environment.run("unlock").code == 0
    assert not (environment.state / "lock").exists()
    refused = environment.run("deploy", "-e", "release_free_bytes=1000000000000000")
    assert refused.code == 1, refused.output
    status = environment.run("status")
    assert status.code == 8, status.output
    assert "and its lock was removed. `./deploy.sh ENVIRONMENT rollback` goes back to release" in status.output
    assert "`./deploy.sh ENVIRONMENT deploy` goes on from there" in status.output
    again = environment.run("deploy")
    assert again.code == 0, again.output
    assert "Going on where the 'deploy'" in again.output
    assert environment.run("status").code == 0


def kill_as_soon_as_it_has_begun(environment: Environment, *, but_first: Callable[[], bool]) -> None:
    journal = environment.state / "lock" / "journal.json"
    with environment.start("deploy") as run:
        wait_until(lambda: journal.exists() and json.loads(journal.read_text())["steps"] != [], 60)
        os.killpg(run.pid, signal.SIGSTOP)
        assert but_first()
        os.killpg(run.pid, signal.SIGKILL)


# --- the end --------------------------------------------------------------------------------------


def test_destroy_asks_first(environment: Environment) -> None:
    done = environment.run("destroy")
    assert done.code == 1
    assert "nothing was changed" in done.output
    assert environment.is_well()


def test_destroy_keeps_the_data_and_a_deployment_brings_the_rest_back(environment: Environment) -> None:
    releases, schema = environment.releases(), environment.schema()
    done = environment.run("destroy", "--yes")
    assert done.code == 0, done.output
    assert environment.processes() == []
    assert "--data" in done.output
    back = environment.run("deploy")
    assert back.code == 0, back.output
    assert environment.is_well()
    assert environment.releases()[: len(releases)] == releases
    assert environment.schema() >= schema


def test_destroy_with_the_data_leaves_nothing_and_tells_programs_so(environment: Environment) -> None:
    done = environment.run("destroy", "--yes", "--data", "--json")
    assert done.code == 0, done.output
    said = json.loads(done.output.splitlines()[-1])
    assert (said["exit_code"], said["outcome"], said["release"], said["problems"]) == (0, "done", None, [])
    assert not environment.state.exists()
    assert environment.processes() == []
    for port in environment.ports.values():
        socket.create_server(("127.0.0.1", port)).close()
