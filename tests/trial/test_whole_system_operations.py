"""What a person does with an environment that is deployed. Everything is left as it was found."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from changes import add_migration
from deployment import Deployment
from image_index import ELSEWHERE, HERE, push_index

pytest_plugins = ["the_deployment"]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def another_image(deployment: Deployment) -> str:
    """The service as it is deployed as an image of its own, in an index for two platforms: the index's digest.

    Its tag is `of-a-test`; that of an index with nothing for the nodes is `of-elsewhere`.
    """
    repository = f"{deployment.trial.variables['athena_registry_push']}/athena"
    deployed = deployment.in_force()["content"]["images"]["service"].partition("@")[2]
    name = f"{repository}:of-a-test"
    described = f"FROM {repository}@{deployed}\nLABEL of-a-test=yes\n"
    environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}  # or it is an index already
    build = ("docker", "build", "--quiet", "--tag", name, "-")
    subprocess.run(build, input=described, text=True, check=True, env=environment)
    subprocess.run(["docker", "push", "--quiet", name], check=True)
    inspect = ("docker", "image", "inspect", "--format", "{{json .RepoDigests}}", name)
    told = json.loads(subprocess.run(inspect, capture_output=True, text=True, check=True).stdout)
    image = next(one.partition("@")[2] for one in told if one.startswith(f"{repository}@"))
    push_index(repository, "of-elsewhere", image, [ELSEWHERE])
    return push_index(repository, "of-a-test", image, [HERE, ELSEWHERE])


def digests(deployment: Deployment) -> dict[str, str]:
    """Return the digest that each service runs with."""
    listed = deployment.trial.kubectl(
        *("get", "deployments", "--all-namespaces", "--selector", "app.kubernetes.io/managed-by=athena"),
        *("--output", "json"),
    )
    images = {
        deployed["metadata"]["name"]: deployed["spec"]["template"]["spec"]["containers"][0]["image"]
        for deployed in json.loads(listed)["items"]
    }
    return {
        component: images[name].partition("@")[2]
        for component, name in (
            ("admin", "athena-admin-backend"),
            ("proxy", "athena-model-proxy"),
            ("orchestrator", "athena-orchestrator"),
        )
    }


def test_the_logs_of_one_component_are_shown_and_a_wrong_name_tells_those_there_are(deployment: Deployment) -> None:
    deployment.who_answers()
    done = deployment.run("logs", "proxy")
    assert done.code == 0, done.output
    assert done.output.count("==> athena/athena-model-proxy-") == 2
    assert "routing_llm_request" in done.output
    assert "athena-orchestrator" not in done.output
    unknown = deployment.run("logs", "nobody")
    assert unknown.code == 1
    assert "there is: admin proxy orchestrator redis" in unknown.output


def test_the_logs_of_all_components_are_shown(deployment: Deployment) -> None:
    done = deployment.run("logs")
    assert done.code == 0, done.output
    for part in (
        "athena-admin/athena-admin-backend",
        "athena/athena-model-proxy",
        "athena/athena-orchestrator",
        "athena/redis",
    ):
        assert f"==> {part}-" in done.output


def test_whoever_wants_to_follow_a_log_is_told_the_command_for_it(deployment: Deployment) -> None:
    done = deployment.run("logs", "orchestrator", "-f")
    assert done.code == 1
    kubeconfig = deployment.trial.variables["athena_kubeconfig"]
    assert f"kubectl --kubeconfig {kubeconfig} --namespace athena logs --follow" in done.output
    assert "deployment/athena-orchestrator" in done.output


def test_verify_tells_programs_who_answered_and_ends_with_8_where_one_did_not(deployment: Deployment) -> None:
    well = deployment.told("verify")
    assert well["problems"] == []
    engines = {(engine["engine"], engine["place"]): engine for engine in well["engines"]}
    assert engines.keys() == {("mlx", "first"), ("ollama", "fallback")}
    assert all(engine["passed"] and engine["seconds"] > 0 for engine in well["engines"])
    assert all(question["passed"] and question["engine"] == "mlx" for question in well["questions"].values())
    deployment.trial.on("engines", "systemctl", "stop", "mlx")
    try:
        unwell = deployment.told("verify", code=8)
    finally:
        deployment.trial.on("engines", "systemctl", "start", "mlx")
    # The proxy's own probes may have left it out by then.
    assert unwell["problems"][0] == "not every engine answered"
    assert all("(tiny: mlx at" in problem for problem in unwell["problems"][1:])
    failed = [engine for engine in unwell["engines"] if not engine["passed"]]
    assert [(engine["engine"], engine["place"]) for engine in failed] == [("mlx", "first")]
    assert "refused" in failed[0]["error"]
    assert all(question["engine"] == "ollama" for question in unwell["questions"].values())


def test_a_component_and_a_version_that_are_nowhere_are_told_at_once_and_nothing_is_begun(
    deployment: Deployment,
) -> None:
    before = deployment.releases()
    done = deployment.run("update", "nobody", "r99")
    assert done.code == 1, done.output
    assert "There is no component nobody; there is: admin proxy orchestrator." in done.output
    assert "There is no version r99" in done.output
    assert deployment.releases() == before
    older = next(release for release in before if release["content"]["schema"] != deployment.schema())
    unfit = deployment.run("update", "admin", older["id"])
    assert unfit.code == 1, unfit.output
    assert f"`rollback {older['id']}` brings both back" in unfit.output
    secret = deployment.run("rotate", "nothing")
    assert secret.code == 1, secret.output
    assert "There is no secret nothing; there is: admin-token" in secret.output
    assert deployment.releases() == before


def generations(deployment: Deployment) -> dict[str, int]:
    """Return for each Deployment how often what is declared of it has become another."""
    listed = deployment.trial.kubectl(
        *("get", "deployments", "--all-namespaces", "--selector", "app.kubernetes.io/managed-by=athena"),
        *("--output", "json"),
    )
    return {item["metadata"]["name"]: item["metadata"]["generation"] for item in json.loads(listed)["items"]}


@pytest.fixture
def moved_on(deployment: Deployment) -> Iterator[str]:
    """The checkout with a migration that is not deployed: its revision. It goes again afterwards."""
    revision = "5a1b2c3d4e5f"
    add_migration(deployment.clone, revision, after=deployment.schema())
    deployment.commit("A table that waits for its deployment")
    yield revision
    (deployment.clone / "service" / "migrations" / "versions" / f"{revision}_of_a_test.py").unlink()
    deployment.commit("No such table")


def test_one_component_runs_another_version_until_it_is_told_default_wherever_the_checkout_is(
    deployment: Deployment, another_image: str, moved_on: str
) -> None:
    """Neither is the checkout's code built, nor its migration applied, nor are its settings used."""
    before, release, declared = digests(deployment), deployment.in_force(), generations(deployment)
    unfit = deployment.run("update", "orchestrator", "of-elsewhere")
    assert unfit.code == 1, unfit.output
    assert f"of-elsewhere is for {ELSEWHERE} alone, and the cluster has nodes of {HERE}." in unfit.output
    done = deployment.run("update", "orchestrator", "of-a-test", "-e", "athena_queue_seconds=17")
    assert done.code == 0, done.output
    after, content = digests(deployment), deployment.in_force()["content"]
    assert after == {**before, "orchestrator": another_image}
    assert before["orchestrator"] != another_image
    assert content.pop("images").keys() == {*release["content"]["images"], "orchestrator"}
    assert content == {name: value for name, value in release["content"].items() if name != "images"}
    again = generations(deployment)
    assert {name for name in again if again[name] != declared[name]} == {"athena-orchestrator"}
    back = deployment.run("update", "orchestrator", "default", "-e", "athena_queue_seconds=17")
    assert back.code == 0, back.output
    assert digests(deployment) == before
    assert deployment.in_force()["content"] == release["content"]
    assert deployment.schema() == release["content"]["schema"] != moved_on


def test_what_speaks_against_a_database_of_others_is_told_at_once_and_without_a_password(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = deployment.trial.variables["athena_database_address"]
    monkeypatch.setenv("ATHENA_DATABASE_URL", f"postgresql://athena_app:not-it@{address}:5432/athena?sslmode=require")
    monkeypatch.setenv("ATHENA_DATABASE_OWNER_URL", f"postgresql://athena_owner:not-it@{address}:5432/athens")
    wrong = {"postgresql_mode": "external", "athena_database_port": 6432}
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    done = deployment.run("deploy", "--allow-irreversible", "-e", f"@{tmp_path / 'wrong.json'}")
    assert done.code == 1, done.output
    for words in (
        "with `postgresql_mode: external` it must have none",
        "athena_database_external_networks must be set",
        "name two databases",
        "athena_database_port is 6432",
        "athena_database_is_backed_up",
        'athena_database_url: The database does not let us in. connection failed: connection to server at "',
        "athena_database_owner_url: The URL does not insist on TLS",
    ):
        assert words in done.output
    assert "not-it" not in done.output
