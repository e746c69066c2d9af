"""A deployment that is killed in each of its steps. The tests build on each other, in order, and on a deployment."""

import pytest
from changes import add_migration
from deployment import Deployment
from pending import assert_that_all_was_done, change_everything, stopped_in
from scratch import wait_until

pytest_plugins = ["the_deployment"]
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

REVISION, LATER = "3a1b2c3d4e5f", "4a1b2c3d4e5f"
NUMBER = 12
# Of all but the kernel: a container that Docker starts anew gets another address. What Docker mounted would go with it.
REBOOT = """
for file in resolv.conf hosts hostname; do
  said=$(cat /etc/$file); umount /etc/$file; echo "$said" >/etc/$file
done
systemctl soft-reboot
"""
# Prompts a second: this is about those that fail, not about how many there are.
RATE = 20


@pytest.fixture(scope="module")
def changed(deployment: Deployment) -> Deployment:
    """The deployment, with something to do for every step of the next run."""
    change_everything(deployment, revision=REVISION, number=NUMBER)
    return deployment


def reboots(deployment: Deployment) -> int:
    """Return how often the database host was booted anew."""
    try:
        return int(deployment.trial.on("db", "systemctl", "show", "--property=SoftRebootsCount", "--value"))
    except AssertionError:  # it does not answer meanwhile
        return 0


def kill_in(deployment: Deployment, *steps: tuple[int, str]) -> None:
    """Kill a deployment as each of these steps begins; each is told to go on where the one before was killed."""
    for number, step in steps:
        said = deployment.kill(deployment.start("deploy", "--go-on"), f"[{number}/8]")
        assert "Going on where the" in said
        assert stopped_in(deployment) == step


def assert_that_it_is_refused(deployment: Deployment, action: str, step: str) -> None:
    """Assert that an action that is not told to go on from where a run stopped changes nothing, and names both ways."""
    before = deployment.releases()
    told = deployment.told(action, code=5)
    assert told["outcome"] == "locked"
    words = (
        f"stopped in its step '{step}'",
        f"`./deploy.sh ENVIRONMENT rollback` goes back to release {deployment.in_force()['id']}",
        f"`./deploy.sh ENVIRONMENT {action} --go-on` goes on from there",
    )
    assert [one for one in words if one not in told["problems"][0]] == []
    assert (deployment.releases(), stopped_in(deployment)) == (before, step)


def test_a_deployment_goes_on_where_one_was_killed(changed: Deployment) -> None:
    """Each is told to, and is killed in a later step; meanwhile the database host reboots."""
    rows = changed.sql("select count(*) from config_audit_log")
    replaced, before = changed.in_force(), reboots(changed)
    with changed.called(RATE):
        changed.kill(changed.start("update"), "[1/8]")
        assert stopped_in(changed) == "hosts"
        for action in ("deploy", "update", "rotate"):
            assert_that_it_is_refused(changed, action, "hosts")
        kill_in(changed, (2, "backup"), (3, "secrets"), (4, "schema"))
        # Not as the step begins, but when the first of the services is there, so that not all are of one version.
        changed.kill(changed.start("deploy", "--go-on"), "[5/8]", lines_more=1)
        assert stopped_in(changed) == "services"
        reboot = {"[5/8]": lambda: changed.trial.on("db", "sh", "-c", REBOOT)}
        changed.kill(changed.start("deploy", "--go-on"), "[6/8]", at=reboot)
        assert stopped_in(changed) == "backends"
        wait_until(lambda: reboots(changed) > before, 60)
        kill_in(changed, (7, "proof"), (8, "prune"))
        (problem,) = (problem for problem in changed.told("status", code=8)["problems"] if "stopped" in problem)
        assert "in its step 'prune'" in problem
        assert_that_it_is_refused(changed, "deploy", "prune")
        done = changed.run("deploy", "--go-on")
        assert done.code == 0, done.output
    assert int(changed.sql("select count(*) from config_audit_log")) >= int(rows)
    assert_that_all_was_done(changed, revision=REVISION, number=NUMBER)
    release = changed.releases()[-1]
    assert release["replaces"] == replaced["id"]
    assert release["schema_before"] == replaced["content"]["schema"]
    # The one that was killed as it pruned had recorded it already.
    assert release["steps"][-1]["step"] == "proof"
    assert [killed["steps"][-1]["step"] for killed in release["took_over"]] == [
        *("hosts", "backup", "secrets", "schema", "services", "backends", "proof")
    ]


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
    assert f"`./deploy.sh ENVIRONMENT rollback` goes back to release {before['id']}" in problem
    assert "`./deploy.sh ENVIRONMENT deploy --go-on` goes on from there" in problem

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
    assert f"`./deploy.sh ENVIRONMENT rollback {before['id']}` goes back to release {before['id']}" in problem

    done = changed.run("rollback")
    assert done.code == 0, done.output
    assert f"The database is at the revision {LATER}, and not at {schema}" in done.output
    assert "can be taken back, the release before it does not run on it" in done.output
    assert changed.schema() == schema
    assert changed.in_force()["content"] == before["content"]
    assert changed.told("status")["problems"] == []
