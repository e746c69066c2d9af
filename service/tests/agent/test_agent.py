"""The agent as a process, beside engines that hang, are busy, are down, or serve something else."""

import signal
import threading

import httpx
import pytest

from tests.agent.conftest import World, until
from tests.support.admin import ADMIN_TOKEN, running_admin_api
from tests.support.ports import quiet_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
RESTART = ["systemctl", "--no-ask-password", "restart", "llama.service"]


def test_an_engine_that_hangs_is_started_anew_once_and_is_well_again(world: World) -> None:
    world.start_engine()
    agent = world.agent()
    agent.until_state("healthy")
    before = agent.engine()["pid"]
    assert before == world.manager.pid("llama.service")
    assert agent.engine()["resident_bytes"] > 1_000_000
    world.manager.signal("llama.service", signal.SIGSTOP)
    agent.until_engine(lambda engine: engine["last_restart"] is not None)
    agent.until_engine(lambda engine: engine["state"] == "healthy" and engine["pid"] != before)
    agent.until_probes("token", 5)
    assert world.manager.restarts() == [RESTART]
    told = agent.engine()
    assert (told["restarts_lately"], told["last_restart"]["error"], told["given_up_at"]) == (1, None, None)
    assert told["replaced_at"] == [], "the agent's own restarts are told by themselves"
    assert agent.metric('athena_engine_restarts_total{engine="llama",result="done"}') == 1
    assert agent.metric('athena_engine_restarts_total{engine="llama",result="by_itself"}') == 0
    assert agent.metric('athena_engine_state{engine="llama",kind="mlx",state="healthy"}') == 1
    assert [line["state"] for line in agent.server.events("engine_state_changed")][:3] == ["healthy", "suspect", "hung"]
    assert agent.server.told("engine_restarted")["engine"] == "llama"
    assert agent.server.stop() == 0


def test_an_engine_whose_generation_has_died_is_started_anew_though_it_answers(world: World) -> None:
    world.start_engine("--dead")
    world.manager.change("llama.service", *world.engine_command())
    agent = world.agent(world.engine_config(grace_seconds=0))
    agent.until_engine(lambda engine: engine["last_restart"] is not None)
    agent.until_state("healthy")
    assert world.manager.restarts() == [RESTART]


def test_an_engine_that_is_at_work_for_others_is_left_alone(world: World) -> None:
    world.start_engine()
    agent = world.agent(world.engine_config(deadline_seconds=2))
    agent.until_state("healthy")
    done = threading.Event()

    def ask() -> None:
        body = {"messages": [{"role": "user", "content": "work=12"}], "stream": True}
        httpx.post(f"http://127.0.0.1:{world.port}/v1/chat/completions", json=body, timeout=120).raise_for_status()
        done.set()

    caller = threading.Thread(target=ask, daemon=True)
    caller.start()
    agent.until_state("busy")
    assert "processor" in agent.engine()["last_probe"]["detail"]
    until(done.is_set, agent.engine)
    agent.until_state("healthy")
    caller.join()
    assert world.manager.restarts() == []


def test_an_engine_that_hangs_again_and_again_is_given_up_and_that_is_told(world: World) -> None:
    world.start_engine("--hang")
    config = world.engine_config(deadline_seconds=1, grace_seconds=2)
    limits = {"most": 2, "pause_seconds": 0.5}
    state = {"AGENT_STATE_FILE": str(world.folder / "state.json")}
    agent = world.agent(config, restarts=limits, **state)
    agent.until_engine(lambda engine: engine["given_up_at"] is not None)
    agent.until_probes("silent", 3)
    assert len(world.manager.restarts()) == 2
    assert "2 times" in agent.server.told("engine_given_up")["reason"]
    assert agent.engine()["state"] == "hung"
    assert "needs a person" in agent.engine()["reason"]
    assert agent.metric('athena_engine_given_up{engine="llama"}') == 1
    assert agent.client.get("/health").json()["components"]["engines"] == "degraded"
    agent.server.kill()

    # Its own end lifts no limit.
    agent = world.agent(config, restarts=limits, **state)
    agent.until_state("hung")
    agent.until_probes("silent", 3)
    assert len(world.manager.restarts()) == 2

    # A person mends it.
    world.manager.change("llama.service", *world.engine_command())
    world.manager.signal("llama.service", signal.SIGKILL)
    world.manager.add("llama.service", *world.engine_command())
    agent.until_engine(lambda engine: engine["state"] == "healthy" and engine["given_up_at"] is None)
    assert agent.metric('athena_engine_given_up{engine="llama"}') == 0
    assert len(world.manager.restarts()) == 2


def test_a_service_manager_that_refuses_is_told_and_asked_again_after_a_pause(world: World) -> None:
    world.start_engine("--hang")
    world.manager.refuse()
    agent = world.agent(
        world.engine_config(deadline_seconds=1, grace_seconds=0), restarts={"most": 2, "pause_seconds": 1}
    )
    agent.until_engine(lambda engine: engine["given_up_at"] is not None)
    assert "Access denied" in agent.engine()["last_restart"]["error"]
    assert "Access denied" in agent.server.told("engine_restart_failed")["error"]
    assert agent.metric('athena_engine_restarts_total{engine="llama",result="failed"}') == 2


def test_an_engine_that_is_down_is_its_service_managers_affair(world: World) -> None:
    world.start_engine()
    agent = world.agent()
    agent.until_state("healthy")
    world.manager.signal("llama.service", signal.SIGKILL)
    agent.until_state("down")
    agent.until_probes("refused", 5)
    assert world.manager.restarts() == []
    before = agent.engine()["pid"]
    world.start_engine()
    agent.until_engine(lambda engine: engine["pid"] not in (None, before))
    agent.until_state("healthy")
    assert agent.metric('athena_engine_restarts_total{engine="llama",result="by_itself"}') == 1
    assert agent.metric('athena_engine_restarts_total{engine="llama",result="done"}') == 0
    assert agent.server.told("engine_process_replaced")["engine"] == "llama"
    assert len(agent.engine()["replaced_at"]) == 1


def test_an_engine_that_serves_another_model_is_told_and_left_alone(world: World) -> None:
    world.start_engine("--model", "other")
    agent = world.agent(world.engine_config(hung_after=1, grace_seconds=0))
    agent.until_state("wrong_model")
    agent.until_probes("wrong_model", 3)
    assert agent.engine()["last_probe"]["detail"] == "it was started with the model other"
    assert world.manager.restarts() == []


def test_launchd_is_asked_in_its_own_words(world: World) -> None:
    job = "com.athena.mlx.llama"
    world.manager.add(job, *world.engine_command())
    agent = world.agent(world.engine_config(job={"manager": "launchd", "label": job}))
    agent.until_state("healthy")
    assert agent.engine()["pid"] == world.manager.pid(job)
    assert agent.engine()["last_end"] == "exit code 0"
    world.manager.signal(job, signal.SIGSTOP)
    agent.until_engine(lambda engine: engine["last_restart"] is not None)
    agent.until_state("healthy")
    assert world.manager.restarts() == [["launchctl", "kickstart", "-k", f"system/{job}"]]


def test_while_the_admin_api_is_away_the_agent_goes_on_and_it_reports_later(world: World, database_url: str) -> None:
    port = quiet_port()
    world.start_engine()
    token = world.folder / "token"
    token.write_text(f"{ADMIN_TOKEN}\n")
    agent = world.agent(ADMIN_API_URL=f"http://127.0.0.1:{port}", arguments=("--token-file", str(token)))
    agent.until_state("healthy")
    until(lambda: agent.client.get("/health").json()["status"] == "degraded", agent.status)
    assert agent.client.get("/health").status_code == 200
    agent.until_probes("token", 3)
    with running_admin_api(database_url, port) as api:
        until(lambda: bool(api.client.get("/api/hosts").json()), agent.server.lines)
        (host,) = api.client.get("/api/hosts").json()
        assert host["name"] == "mac-1"
        assert host["report"]["engines"][0]["name"] == "llama"
        assert host["report"]["figures"]["memory_total_bytes"] > 0
        until(lambda: agent.client.get("/health").json()["status"] == "healthy", agent.status)
    assert len(agent.server.events("report_not_taken")) == 1


def test_figures_of_the_host_are_shown(world: World) -> None:
    world.start_engine()
    agent = world.agent()
    until(lambda: agent.status()["figures"]["memory_total_bytes"] is not None, agent.status)
    figures = agent.status()["figures"]
    assert 0 < figures["memory_available_bytes"] < figures["memory_total_bytes"]
    assert 0 < figures["disk_free_bytes"] <= figures["disk_total_bytes"]
    assert figures["uptime_seconds"] > 0
    assert agent.metric("athena_host_memory_total_bytes") == figures["memory_total_bytes"]
    assert agent.client.get("/livez").json() == {"status": "alive"}
    assert agent.client.get("/openapi.json").json()["info"]["title"] == "Athena agent"
