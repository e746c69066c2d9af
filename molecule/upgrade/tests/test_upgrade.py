"""An update of code and schema while callers ask."""

from deployment import A_TABLE, Deployment


def test_an_update_loses_no_request_of_those_who_call_meanwhile() -> None:
    deployment = Deployment.of_the_scenario()
    assert deployment.schema() != A_TABLE
    deployment.add_migrations(A_TABLE)
    with deployment.called():
        done = deployment.run("update")
    assert done.code == 0, done.output
    assert deployment.schema() == A_TABLE
    assert deployment.told("status")["problems"] == []
