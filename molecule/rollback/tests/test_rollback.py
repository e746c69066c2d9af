"""The way back from an update while callers ask."""

from deployment import A_TABLE, Deployment


def test_a_rollback_loses_no_request_of_those_who_call_meanwhile() -> None:
    deployment = Deployment.of_the_scenario()
    if deployment.schema() != A_TABLE:
        deployment.add_migrations(A_TABLE)
        assert deployment.run("update").code == 0
    newer = deployment.in_force()
    older = next(release for release in deployment.releases() if release["id"] == newer["replaces"])
    with deployment.called():
        done = deployment.run("rollback")
    assert done.code == 0, done.output
    assert deployment.schema() == older["content"]["schema"] != newer["content"]["schema"]
    assert deployment.releases()[-1]["restores"] == older["id"]
    assert deployment.releases()[-1]["backup"]["schema"] == newer["content"]["schema"]
    assert deployment.told("status")["problems"] == []
