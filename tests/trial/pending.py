"""Something to do for every step of the next deployment."""

import json

from changes import add_migration
from deployment import Deployment


def change_everything(deployment: Deployment, *, revision: str, number: int) -> None:
    """Have a migration of this revision, settings of this number, and what somebody deleted and left in the cluster."""
    add_migration(deployment.clone, revision, after=deployment.schema())
    (declared,) = deployment.trial.variables["athena_backends"]
    deployment.configure({"backup_keep": number, "athena_backends": [{**declared, "max_tokens": number}]})
    deployment.commit("A table and a setting more")
    kubectl = deployment.trial.kubectl
    kubectl("delete", "secret", "postgres-credentials", "--namespace", "automation")
    kubectl("create", "service", "clusterip", "left-over", "--namespace", "athena", "--tcp", "80")
    ours = ("app.kubernetes.io/managed-by=athena", "app.kubernetes.io/name=left-over")
    kubectl("label", "service", "left-over", "--namespace", "athena", *ours)


def assert_that_all_was_done(deployment: Deployment, *, revision: str, number: int) -> None:
    """Assert that the release in force made this migration, and that all else is as declared."""
    assert deployment.schema() == revision
    assert deployment.sql("select max_tokens from llm_backends") == str(number)
    assert "left-over" not in deployment.trial.kubectl("get", "services", "--namespace", "athena", "--output", "name")
    assert [step["revision"] for step in deployment.in_force()["migrations"]] == [revision]
    status = deployment.told("status")
    assert (status["problems"], status["lock"]) == ([], "")


def stopped_in(deployment: Deployment) -> str:
    """Return the step of which the lock says that a run stopped there; `status` tells no more than that."""
    return str(json.loads((deployment.state / "lock" / "journal.json").read_text())["steps"][-1]["step"])
