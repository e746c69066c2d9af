"""What may befall an environment while it is deployed. The tests build on each other, in order, and on a deployment."""

import json
import re

import pytest
from deployment import Deployment
from pending import assert_that_all_was_done, change_everything, stopped_in

pytest_plugins = ["the_deployment"]
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

BACKUPS = "/var/backups/athena-postgresql"
REVISION, NUMBER = "2a1b2c3d4e5f", 13


@pytest.fixture(scope="module")
def changed(deployment: Deployment) -> Deployment:
    """The deployment, with something to do for every step of the next run."""
    change_everything(deployment, revision=REVISION, number=NUMBER)
    return deployment


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
        assert re.search(rf"\(processes {first.pid} and \d+\) is busy with 'update'", second.output), second.output
        assert "unlock" not in second.output

    first = changed.start("update")
    changed.kill(first, "[1/8]", meanwhile=deploy_again)
    assert stopped_in(changed) == "hosts"


def test_a_full_disk_is_told_before_anything_is_begun_and_taken_back_where_it_fills_later(changed: Deployment) -> None:
    """A run that goes on where a killed one stopped: the last test left its lock."""
    before, on_database = changed.schema(), changed.trial.on
    on_database("db", "mount", "-t", "tmpfs", "-o", "size=500m", "none", BACKUPS)
    try:
        refused = changed.run("update", "--go-on")
        assert refused.code == 1, refused.output
        assert f"500 MiB free on {BACKUPS}" in refused.output
        assert stopped_in(changed) == "hosts"
        on_database("db", "mount", "-o", "remount,size=2g", BACKUPS)
        fill = {"[2/8]": lambda: on_database("db", "mount", "-o", "remount,size=1m", BACKUPS)}
        done = changed.run("update", "--go-on", at=fill)
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
    assert failed["left"]["secrets"] == failed["content"]["secrets"]
    assert json.loads(changed.backends("list", "--json"))  # the Admin API reaches the database


def test_a_deployment_goes_on_where_one_was_killed_between_two_services(changed: Deployment) -> None:
    """And it does what none of those before could."""
    # Not as the step begins, but when the first of the services is there, so that not all are of one version.
    changed.kill(changed.start("deploy"), "[5/8]", lines_more=1)
    assert stopped_in(changed) == "services"
    unwell = changed.told("status", code=8)
    (problem,) = (problem for problem in unwell["problems"] if "stopped" in problem)
    assert "in its step 'services'" in problem
    ways = (
        f"`./deploy.sh ENVIRONMENT rollback` goes back to release {changed.in_force()['id']}",
        "`./deploy.sh ENVIRONMENT deploy --go-on` goes on from there",
    )
    assert [way for way in ways if way not in problem] == []
    assert unwell["lock"] == "deploy"
    refused = changed.run("scale", "proxy", "3")
    assert refused.code == 5, refused.output
    assert "in its step 'services'" in refused.output

    releases = changed.releases()
    told = changed.told("deploy", code=5)
    assert told["outcome"] == "locked"
    assert [way for way in ("in its step 'services'", *ways) if way not in told["problems"][0]] == []
    assert changed.releases() == releases
    assert stopped_in(changed) == "services"

    done = changed.run("deploy", "--go-on")
    assert done.code == 0, done.output
    assert_that_all_was_done(changed, revision=REVISION, number=NUMBER)
