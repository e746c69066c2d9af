"""Migrations over which there is no way back."""

from deployment import A_FINAL_TABLE, Deployment


def test_migrations_that_cannot_be_taken_back_wait_for_a_decision() -> None:
    deployment = Deployment.of_the_scenario()
    deployment.add_migrations(A_FINAL_TABLE)
    before = deployment.schema()
    refused = deployment.run("update")
    assert refused.code == 6, refused.output
    assert A_FINAL_TABLE in refused.output
    assert deployment.schema() == before
    allowed = deployment.run("update", "--allow-irreversible")
    assert allowed.code == 0, allowed.output
    assert deployment.schema() == A_FINAL_TABLE
    release = deployment.releases()[-1]
    assert release["backup"]["id"]
    assert [step["reversible"] for step in release["migrations"]] == [True, False]
    undecided = deployment.run("rollback")
    assert undecided.code == 6, undecided.output
    assert release["backup"]["id"] in undecided.output
    assert deployment.releases()[-1] == release
