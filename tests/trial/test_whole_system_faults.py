"""What may befall an environment while it is deployed. The tests build on each other, in order, and on a deployment."""

import json
import os

import pytest
from changes import add_migration
from deployment import Deployment
from scratch import wait_until

pytest_plugins = ["the_deployment"]
pytestmark = pytest.mark.timeout(1800)

BACKUPS = "/var/backups/athena-postgresql"
REVISION, LATER = "2a1b2c3d4e5f", "3a1b2c3d4e5f"
# Of all but the kernel: a container that Docker starts anew gets another address. What Docker mounted would go with it.
REBOOT = """
for file in resolv.conf hosts hostname; do
  said=$(cat /etc/$file); umount /etc/$file; echo "$said" >/etc/$file
done
systemctl soft-reboot
"""
# Prompts a second: this is about those that fail, not about how many there are.
RATE = 20
# `./test.sh full` kills a deployment in every one of its steps, which takes ten minutes.
EVERY_STEP = "ATHENA_TEST_EVERY_STEP" in os.environ


@pytest.fixture(scope="module")
def changed(deployment: Deployment) -> Deployment:
    """The deployment, with something to do for every step of the next run."""
    add_migration(deployment.clone, REVISION, after=deployment.schema())
    (declared,) = deployment.trial.variables["athena_backends"]
    deployment.configure({"backup_keep": 13, "athena_backends": [{**declared, "max_tokens": 63}]})
    deployment.commit("A table and a setting more")
    kubectl = deployment.trial.kubectl
    kubectl("delete", "secret", "postgres-credentials", "--namespace", "automation")
    kubectl("create", "service", "clusterip", "left-over", "--namespace", "athena", "--tcp", "80")
    ours = ("app.kubernetes.io/managed-by=athena", "app.kubernetes.io/name=left-over")
    kubectl("label", "service", "left-over", "--namespace", "athena", *ours)
    return deployment


def stopped_in(deployment: Deployment) -> str:
    """Return the step of which the lock says that a run stopped there; `status` tells no more than that."""
    return str(json.loads((deployment.state / "lock" / "journal.json").read_text())["steps"][-1]["step"])


def reboots(deployment: Deployment) -> int:
    """Return how often the database host was booted anew."""
    try:
        return int(deployment.trial.on("db", "systemctl", "show", "--property=SoftRebootsCount", "--value"))
    except AssertionError:  # it does not answer meanwhile
        return 0


def test_without_the_registry_nothing_is_begun(changed: Deployment) -> None:
    before = changed.releases()
    changed.trial.on("cluster", "systemctl", "stop", "docker-registry")
    try:
        done = changed.run("update")
        unwell = changed.told("status", code=8)
    finally:
        changed.trial.on("cluster", "systemctl", "start", "docker-registry")
    assert done.code == 1, done.output
    assert "is not in the registry" in done.output
    assert any("the registry does not answer" in problem for problem in unwell["problems"]), unwell["problems"]
    assert changed.releases() == before
    assert not (changed.state / "lock").exists()


def test_of_two_deployments_at_once_the_second_is_refused(changed: Deployment) -> None:
    def deploy_again() -> None:
        second = changed.run("deploy")
        assert second.code == 5, second.output
        assert f"process {first.pid}) is busy with 'update'" in second.output
        assert "unlock" not in second.output

    first = changed.start("update")
    changed.kill(first, "[1/8]", meanwhile=deploy_again)
    assert stopped_in(changed) == "hosts"


def test_a_full_disk_is_told_before_anything_is_begun_and_taken_back_where_it_fills_later(changed: Deployment) -> None:
    """A run that goes on where a killed one stopped: the last test left its lock."""
    before, on_database = changed.schema(), changed.trial.on
    on_database("db", "mount", "-t", "tmpfs", "-o", "size=500m", "none", BACKUPS)
    try:
        refused = changed.run("update")
        assert refused.code == 1, refused.output
        assert f"500 MiB free on {BACKUPS}" in refused.output
        assert stopped_in(changed) == "hosts"
        on_database("db", "mount", "-o", "remount,size=2g", BACKUPS)
        fill = {"[2/8]": lambda: on_database("db", "mount", "-o", "remount,size=1m", BACKUPS)}
        done = changed.run("update", at=fill)
        unwell = changed.told("status", code=8)
        # The database has the new password by then, and so the services are to have it as well.
        on_database("db", "mount", "-o", "remount,size=2g", BACKUPS)
        rotated = changed.run("rotate", "database-application", at=fill)
    finally:
        on_database("db", "umount", BACKUPS)
    assert done.code == 3, done.output
    assert "Going on where the 'update'" in done.output
    assert "backup_reserve_bytes" in done.output
    assert changed.schema() == before
    assert changed.releases()[-1]["outcome"] == "failed, taken back"
    assert any(f"MiB free on {BACKUPS}" in problem for problem in unwell["problems"]), unwell["problems"]
    assert not (changed.state / "lock").exists()
    assert rotated.code == 3, rotated.output
    failed = changed.releases()[-1]
    assert [step["step"] for step in failed["steps"] if "failed" in step] == ["backup"]
    assert json.loads(changed.backends("list", "--json"))  # the Admin API reaches the database


def kill_in(deployment: Deployment, *steps: tuple[int, str]) -> None:
    """Kill a deployment as each of these steps begins; each goes on where the one before was killed."""
    for number, step in steps:
        said = deployment.kill(deployment.start("deploy"), f"[{number}/8]")
        assert "Going on where the" in said
        assert stopped_in(deployment) == step


def test_a_deployment_goes_on_where_one_was_killed(changed: Deployment) -> None:
    """Each goes on where the last was killed, and is killed in a later step; meanwhile the database host reboots."""
    rows = changed.sql("select count(*) from config_audit_log")
    replaced, before = changed.in_force(), reboots(changed)
    with changed.called(RATE):
        changed.kill(changed.start("update"), "[1/8]")
        assert stopped_in(changed) == "hosts"
        if EVERY_STEP:
            kill_in(changed, (2, "backup"), (3, "secrets"), (4, "schema"))
        # Not as the step begins, but when the first of the services is there, so that not all are of one version.
        changed.kill(changed.start("deploy"), "[5/8]", lines_more=1)
        assert stopped_in(changed) == "services"
        unwell = changed.told("status", code=8)
        (problem,) = (problem for problem in unwell["problems"] if "stopped" in problem)
        assert "in its step 'services'" in problem
        assert "`./deploy.sh ENVIRONMENT deploy` mends that" in problem
        assert unwell["lock"] == "deploy"
        refused = changed.run("scale", "proxy", "3")
        assert refused.code == 5, refused.output
        assert "in its step 'services'" in refused.output

        changed.kill(changed.start("deploy"), "[6/8]", at={"[5/8]": lambda: changed.trial.on("db", "sh", "-c", REBOOT)})
        assert stopped_in(changed) == "backends"
        wait_until(lambda: reboots(changed) > before, 60)
        if EVERY_STEP:
            kill_in(changed, (7, "proof"), (8, "prune"))
        done = changed.run("deploy")
        assert done.code == 0, done.output
    assert changed.schema() == REVISION
    assert int(changed.sql("select count(*) from config_audit_log")) >= int(rows)
    assert changed.sql("select max_tokens from llm_backends") == "63"
    assert "left-over" not in changed.trial.kubectl("get", "services", "--namespace", "athena", "--output", "name")
    release = changed.releases()[-1]
    assert release["replaces"] == replaced["id"]
    assert release["schema_before"] == replaced["content"]["schema"]
    killed_in = ["services", "backends", *(["proof", "prune"] if EVERY_STEP else [])]
    assert [killed["steps"][-1]["step"] for killed in release["took_over"]][-len(killed_in) :] == killed_in
    assert [step["revision"] for step in release["migrations"]] == [REVISION]
    status = changed.told("status")
    assert (status["problems"], status["lock"]) == ([], "")


def test_a_rollback_goes_back_from_where_a_deployment_was_killed_as_the_database_says(changed: Deployment) -> None:
    """The ledger knows nothing of the migration, and the code in force does not run on it."""
    before, schema = changed.in_force(), changed.schema()
    add_migration(changed.clone, LATER, after=schema, previous_code_runs=False)
    changed.commit("A table that only newer code runs on")
    changed.kill(changed.start("update"), "[5/8]")
    (changed.clone / "service" / "migrations" / "versions" / f"{LATER}_of_a_test.py").unlink()
    changed.commit("No such table")
    assert changed.schema() == LATER
    (problem,) = (problem for problem in changed.told("status", code=8)["problems"] if "stopped" in problem)
    assert f"and `rollback` goes back to release {before['id']}" in problem

    # What the migration made cannot be removed: the code in force is not started on what it does not run on.
    changed.sql(f"create view depending as table of_a_test_{LATER}")
    failed = changed.run("rollback")
    changed.sql("drop view depending")
    assert failed.code == 4, failed.output
    assert (
        f"Release {before['id']} was not started again, because the database is at the revision {LATER}"
        in failed.output
    )
    assert f"rollback {before['id']}" in failed.output
    assert changed.schema() == LATER
    (problem,) = (problem for problem in changed.told("status", code=8)["problems"] if "stopped" in problem)
    assert f"`./deploy.sh ENVIRONMENT rollback {before['id']}` mends that" in problem

    done = changed.run("rollback")
    assert done.code == 0, done.output
    assert f"The database is at the revision {LATER}, and not at {schema}" in done.output
    assert "can be taken back, the release before it does not run on it" in done.output
    assert changed.schema() == schema
    assert changed.in_force()["content"] == before["content"]
    assert changed.told("status")["problems"] == []
