"""What is said of a deployment of which parts are away or were changed by hand. Everything is left as it was found.

Without the cluster itself: tests/deploy/test_unreachable_cluster.py.
"""

import json
from pathlib import Path

import pytest
from deployment import Deployment
from scratch import wait_until
from trials import run

pytest_plugins = ["the_deployment"]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ADMIN = ("deployment/athena-admin-backend", "--namespace", "athena-admin")
REDIS = ("deployment/redis", "--namespace", "athena")


def test_status_tells_of_every_part_that_all_is_well(deployment: Deployment) -> None:
    status = deployment.told("status")
    assert status["problems"] == []
    assert status["cluster"]["answers"] is True
    assert status["health"] == {"admin": "healthy", "proxy": "healthy", "orchestrator": "healthy"}
    assert (status["redis"]["ready"], status["redis"]["drift"]) == (1, [])
    assert {name: state["drift"] for name, state in status["external_services"].items()} == {
        "mlx-service": [],
        "ollama": [],
    }
    assert status["registry"] == {"drift": []}
    assert {engine["kind"] for engine in status["engines"]} == {"MLX", "Ollama"}
    assert list(status["hosts"].values()) == [True]


def test_without_the_database_host_status_tells_what_it_can(deployment: Deployment) -> None:
    host = f"{deployment.trial.name}-db"
    run("docker", "pause", host)
    try:
        status = deployment.told("status", code=8)
        refused = deployment.run("destroy", "--yes", "--data")
    finally:
        run("docker", "unpause", host)
    assert status["hosts"] == {host: False}
    assert status["schema"] == "unknown"
    assert status["health"]["admin"] == "unhealthy"
    assert status["health"]["proxy"] in ("healthy", "degraded")  # on the last known configuration, once it is missed
    problems = "\n".join(status["problems"])
    assert f"{host}: is out of reach" in problems
    assert "admin says of its database: unreachable" in problems
    assert refused.code == 1, refused.output
    assert f"{host}: is out of reach" in refused.output
    wait_until(lambda: deployment.trial.kubectl("rollout", "status", *ADMIN, "--timeout", "60s") != "", 90)
    assert deployment.told("status")["problems"] == []


def test_status_sees_that_the_admin_api_is_away_and_that_redis_was_changed_and_a_deployment_puts_both_right(
    deployment: Deployment,
) -> None:
    deployment.trial.kubectl("scale", *ADMIN, "--replicas", "0")
    deployment.trial.kubectl("set", "env", *REDIS, "BY_HAND=yes")
    deployment.trial.kubectl("rollout", "status", *REDIS, "--timeout", "60s")
    problems = "\n".join(deployment.told("status", code=8)["problems"])
    assert "admin is not healthy" in problems
    assert "redis: its pods were changed by" in problems
    said = deployment.told("deploy")
    assert (said["exit_code"], said["outcome"], said["problems"]) == (0, "done", [])
    assert said["release"] == deployment.in_force()["id"]
    assert [step["step"] for step in said["steps"]][-2:] == ["proof", "prune"]
    assert deployment.told("status")["problems"] == []


def test_status_sees_that_a_name_for_engines_is_gone_and_a_backend_disabled_and_a_deployment_puts_both_right(
    deployment: Deployment,
) -> None:
    (declared,) = deployment.trial.variables["athena_backends"]
    rows = json.loads(deployment.backends("list", "--json"))
    (row,) = (row for row in rows if row["model_name"] == declared["model_name"])
    deployment.backends("toggle", str(row["id"]))
    deployment.trial.kubectl("delete", "service", "ollama", "--namespace", "athena")
    status = deployment.told("status", code=8)
    disabled = f"backend {row['model_name']} at {row['endpoint_url']}: enabled is false, not true"
    assert status["registry"]["drift"] == [disabled]
    assert "Service is not there" in status["external_services"]["ollama"]["drift"]
    assert {f"registry: {disabled}", "ollama: Service is not there"} <= set(status["problems"])
    done = deployment.run("deploy")
    assert done.code == 0, done.output
    assert deployment.told("status")["problems"] == []


def test_sudo_that_is_refused_and_a_model_that_no_engine_has_are_told_before_anything_is_begun(
    deployment: Deployment, tmp_path: Path
) -> None:
    before = deployment.releases()
    (declared,) = deployment.trial.variables["athena_backends"]
    wrong = {
        "ansible_become_exe": "/nowhere/sudo",
        "athena_backends": [
            declared,
            {
                **declared,
                "model_name": "phi3:mini",
                "backend_type": "ollama",
                "endpoint_url": "http://ollama.athena.svc:11434",
            },
        ],
    }
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    said = deployment.told("update", "-e", f"@{tmp_path / 'wrong.json'}", code=1)
    assert (said["outcome"], said["steps"]) == ("failed, nothing changed", [])
    problems = "\n".join(said["problems"])
    assert f"{deployment.trial.name}-db: does not let us become root" in problems
    assert "does not have the model phi3:mini. Have it there: ollama pull phi3:mini" in problems
    assert len(said["problems"]) == 2, problems
    assert deployment.releases() == before
