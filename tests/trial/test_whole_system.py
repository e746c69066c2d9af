"""The life of an environment on a real cluster, by deploy.sh. The tests build on each other, in order."""

import json
import sys
from pathlib import Path

import pytest
from deployment import A_FINAL_TABLE, Deployment, secrets_in
from trials import run

pytest_plugins = ["the_deployment"]
pytestmark = pytest.mark.timeout(1800)


# molecule's scenarios of a whole environment, in this order.
SCENARIOS = [
    pytest.param("half_failed", marks=pytest.mark.long),
    pytest.param("upgrade", marks=pytest.mark.long),
    "rollback",
    pytest.param("irreversible", marks=pytest.mark.long),
    pytest.param("restore", marks=pytest.mark.long),
]


def test_a_plan_for_an_empty_cluster_tells_what_it_would_do_and_does_nothing(deployment: Deployment) -> None:
    done = deployment.run("plan")
    assert done.code == 7, done.output
    assert "Image registry.example.internal/athena:content-" in done.output
    assert "athena/athena-model-proxy" in done.output
    assert "kind: Deployment" in done.output
    assert "athena" not in deployment.trial.kubectl("get", "namespaces", "--output", "name")
    assert not (deployment.state / "vault.yml").exists()
    assert deployment.releases() == []


def test_what_speaks_against_a_deployment_is_told_at_once_and_nothing_is_begun(
    deployment: Deployment, tmp_path: Path
) -> None:
    wrong = {
        "athena_ollama_addresses": ["127.0.0.1"],
        "athena_redis_image": f"registry.example.internal/redis@sha256:{'0' * 64}",
        "athena_kubeconfig": "/nowhere",
    }
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    done = deployment.run("deploy", "-e", f"@{tmp_path / 'wrong.json'}")
    assert done.code == 1, done.output
    for words in ("/nowhere does not answer", "sha256:0000", "Ollama at 127.0.0.1:11434 does not answer"):
        assert words in done.output
    assert deployment.releases() == []


def test_the_first_deployment_answers_questions_at_every_engine(deployment: Deployment) -> None:
    done = deployment.run("deploy")
    assert done.code == 0, done.output
    assert "fallback  answered" in done.output
    assert deployment.who_answers() == "mlx"
    assert secrets_in(done.output, deployment.state, Path(sys.executable)) == []
    release = deployment.releases()[0]
    assert "@sha256:" in release["content"]["images"]["service"]
    assert release["git"]["dirty"] is False
    assert all(step["done"] for step in release["steps"])
    assert release["backup"]["sha256"]
    ledger = (deployment.state / "ledger" / "r1.json").read_text()
    assert secrets_in(ledger, deployment.state, Path(sys.executable)) == []


def test_the_second_deployment_changes_nothing(deployment: Deployment) -> None:
    done = deployment.run("deploy")
    assert done.code == 0, done.output
    assert done.output.count("changed=0") == 2, done.output
    assert "Nothing new" in done.output


def test_status_sees_what_is_there_and_what_somebody_changed(deployment: Deployment) -> None:
    status = deployment.told("status")
    assert status["problems"] == []
    assert status["services"]["proxy"]["ready"] == 2
    deployment.trial.kubectl("scale", "deployment/athena-orchestrator", "--namespace", "athena", "--replicas", "0")
    unwell = deployment.told("status", code=8)
    assert any("orchestrator" in problem for problem in unwell["problems"]), unwell["problems"]


def test_a_component_is_scaled_and_what_was_changed_by_hand_is_put_right(deployment: Deployment) -> None:
    done = deployment.run("scale", "orchestrator", "1")
    assert done.code == 0, done.output
    status = deployment.told("status")
    assert status["problems"] == []
    assert status["services"]["orchestrator"]["wanted"] == 1
    assert deployment.run("scale", "nobody", "1").code == 1


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_scenario(deployment: Deployment, scenario: str) -> None:
    command = ("molecule", "--base-config", "molecule/config.yml", "test", "--scenario-name", scenario)
    run("env", f"ATHENA_SHARED_TRIAL={deployment.trial.name}", *command)


@pytest.mark.long
def test_secrets_are_rotated_and_everything_uses_the_new_ones(deployment: Deployment) -> None:
    before = deployment.releases()[-1]["content"]["secrets"]
    done = deployment.run("rotate")
    assert done.code == 0, done.output
    after = deployment.releases()[-1]["content"]["secrets"]
    assert after == {name: version + 1 for name, version in before.items()}
    assert deployment.told("status")["problems"] == []


@pytest.mark.long
def test_destroy_keeps_what_holds_data_and_a_deployment_brings_the_rest_back(deployment: Deployment) -> None:
    before = deployment.in_force()
    done = deployment.run("destroy", "--yes")
    assert done.code == 0, done.output
    left = deployment.trial.kubectl("get", "deployments", "--all-namespaces", "--output", "name")
    assert "athena" not in left
    assert deployment.schema() == A_FINAL_TABLE
    gone = deployment.run("status")
    assert gone.code == 1, gone.output
    assert "has removed the services" in gone.output
    assert deployment.releases()[-1]["outcome"] == "services removed"
    back = deployment.run("deploy")
    assert back.code == 0, back.output
    assert deployment.in_force()["replaces"] == before["id"]
    assert deployment.who_answers() == "mlx"
