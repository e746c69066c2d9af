"""The life of an environment on a real cluster, by deploy.sh. The tests build on each other, in order."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from changes import add_migration
from deployment import Callers, Deployment, secrets_in
from trials import ROOT, Trial

pytestmark = pytest.mark.timeout(1800)

NEW_REVISION, FINAL_REVISION = "0a1b2c3d4e5f", "1a1b2c3d4e5f"


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    """A trial of a copy of this checkout, with commits of its own, to which it is deployed."""
    name = f"trial-deploy-{os.getpid()}"
    folder = Path(tempfile.mkdtemp(prefix="athena-trial-", dir="/tmp")).resolve()
    clone = folder / "clone"
    subprocess.run([ROOT / "molecule" / "shared" / "working-copy", clone], check=True)
    try:
        yield Deployment(Trial(name, clone))
    finally:
        subprocess.run([clone / "molecule" / "shared" / "trial", "stop", name], check=True)
        shutil.rmtree(folder)


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
    assert done.output.count("changed=0") == 3, done.output
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


def test_an_update_that_cannot_run_is_taken_back(deployment: Deployment) -> None:
    source = deployment.clone / "service" / "src" / "athena" / "orchestrator" / "app.py"
    sound = source.read_text()
    source.write_text(sound + "\nraise RuntimeError('of a test')\n")
    add_migration(deployment.clone, NEW_REVISION, after=deployment.schema())
    before = deployment.schema()
    impatient = ("-e", "kubernetes_app_patience=60")
    done = deployment.run("update", *impatient)
    source.write_text(sound)
    assert done.code == 3, done.output
    assert "of a test" in done.output
    assert deployment.schema() == before
    assert deployment.told("status", *impatient)["problems"] == []
    assert deployment.releases()[-1]["outcome"] == "failed, taken back"


def test_an_update_and_a_rollback_lose_no_request_of_those_who_call_meanwhile(deployment: Deployment) -> None:
    deployment.commit("A table more")
    before = deployment.schema()
    callers = Callers(deployment.proxy(), 8)
    with callers.calling():
        done = deployment.run("update")
        assert done.code == 0, done.output
        assert deployment.schema() == NEW_REVISION
        back = deployment.run("rollback")
        assert back.code == 0, back.output
    assert deployment.schema() == before
    assert set(callers.outcomes) == {"answered"}, callers.outcomes
    assert callers.outcomes["answered"] > 1000
    assert deployment.told("status")["problems"] == []


def test_migrations_that_cannot_be_taken_back_wait_for_a_decision(deployment: Deployment) -> None:
    add_migration(deployment.clone, FINAL_REVISION, after=NEW_REVISION, reversible=False, previous_code_runs=False)
    before = deployment.schema()
    refused = deployment.run("update")
    assert refused.code == 6, refused.output
    assert FINAL_REVISION in refused.output
    assert deployment.schema() == before
    allowed = deployment.run("update", "--allow-irreversible")
    assert allowed.code == 0, allowed.output
    assert deployment.schema() == FINAL_REVISION
    release = deployment.releases()[-1]
    assert release["backup"]["id"]
    assert [step["reversible"] for step in release["migrations"]] == [True, False]
    undecided = deployment.run("rollback")
    assert undecided.code == 6, undecided.output
    assert release["backup"]["id"] in undecided.output
    assert deployment.releases()[-1] == release


def test_a_backup_is_restored_and_the_release_runs_on_it(deployment: Deployment) -> None:
    made = deployment.told("backup")
    deployment.sql("delete from llm_backends")
    done = deployment.run("restore", made["id"])
    assert done.code == 0, done.output
    assert deployment.sql("select count(*) from llm_backends") == "1"
    assert deployment.who_answers() == "mlx"
    unknown = deployment.run("restore", "athena-19700101T000000Z")
    assert unknown.code == 1, unknown.output
    assert deployment.told("status")["lock"] == ""


def test_secrets_are_rotated_and_everything_uses_the_new_ones(deployment: Deployment) -> None:
    before = deployment.releases()[-1]["content"]["secrets"]
    done = deployment.run("rotate")
    assert done.code == 0, done.output
    after = deployment.releases()[-1]["content"]["secrets"]
    assert after == {name: version + 1 for name, version in before.items()}
    assert deployment.told("status")["problems"] == []


def test_destroy_keeps_what_holds_data_and_a_deployment_brings_the_rest_back(deployment: Deployment) -> None:
    done = deployment.run("destroy", "--yes")
    assert done.code == 0, done.output
    left = deployment.trial.kubectl("get", "deployments", "--all-namespaces", "--output", "name")
    assert "athena" not in left
    assert deployment.schema() == FINAL_REVISION
    back = deployment.run("deploy")
    assert back.code == 0, back.output
    assert deployment.who_answers() == "mlx"
