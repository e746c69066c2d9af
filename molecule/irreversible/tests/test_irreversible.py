"""Migrations over which there is no way back."""

import json

from deployment import A_FINAL_TABLE, Deployment


def test_migrations_that_cannot_be_taken_back_wait_for_a_decision() -> None:
    deployment = Deployment.of_the_scenario()
    deployment.add_migrations(A_FINAL_TABLE)
    before = deployment.schema()
    refused = deployment.run("update")
    assert refused.code == 6, refused.output
    assert A_FINAL_TABLE in refused.output
    assert deployment.schema() == before
    # It stays from before the migration on: killed in between, the next run goes on where it is told to.
    deployment.kill(deployment.start("update", "--allow-irreversible"), "Have the backup stay")
    assert deployment.schema() == before
    undecided = deployment.run("update", "--allow-irreversible")
    assert undecided.code == 5, undecided.output
    assert deployment.schema() == before
    allowed = deployment.run("update", "--allow-irreversible", "--go-on")
    assert allowed.code == 0, allowed.output
    assert deployment.schema() == A_FINAL_TABLE
    release = deployment.releases()[-1]
    manifest = release["backup"]["path"].removesuffix("dump") + "json"
    assert json.loads(deployment.trial.on("db", "cat", manifest))["kept"] is True
    assert [killed["record"]["backup"]["id"] for killed in release["took_over"]] == [release["backup"]["id"]]
    assert [step["reversible"] for step in release["migrations"]] == [True, False]
    assert deployment.releases()[-1] == release


def test_a_rollback_that_is_left_to_a_person_tells_what_the_way_through_the_backup_would_cost() -> None:
    deployment = Deployment.of_the_scenario()
    release = deployment.in_force()
    backup = release["backup"]["id"]
    deployment.sql("create table written_since as select generate_series(1, 2)")
    undecided = deployment.run("rollback")
    assert undecided.code == 6, undecided.output
    assert f"Only the backup {backup}" in undecided.output
    assert "- public.written_since: was not there, 2 rows now" in undecided.output
    assert f"athena-backup restore {backup}" in undecided.output
    folder = release["backup"]["path"].rpartition("/")[0]
    deployment.trial.on("db", "mv", f"{folder}/{backup}.json", "/root/")
    gone = deployment.told("rollback", code=6)
    deployment.trial.on("db", "mv", f"/root/{backup}.json", folder)
    assert gone["outcome"] == "a decision is needed"
    assert "it cannot be had" in gone["problems"][0]
    assert f"has no backup {backup}" in gone["problems"][0]
    assert deployment.in_force() == release
