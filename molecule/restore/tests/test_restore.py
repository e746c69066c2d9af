"""A backup in the place of a database that was damaged."""

import json

from deployment import Deployment


def test_a_backup_is_restored_and_the_release_runs_on_it() -> None:
    deployment = Deployment.of_the_scenario()
    made, before = deployment.told("backup"), deployment.in_force()
    assert made["schema"] == deployment.schema()
    manifest = made["path"].removesuffix("dump") + "json"
    deployment.trial.on("db", "sed", "--in-place=.whole", f"s/{made['schema']}/feedbeef0000/", manifest)
    unfit = deployment.run("restore", made["id"])
    assert unfit.code == 1, unfit.output
    assert "has the schema feedbeef0000" in unfit.output
    deployment.trial.on("db", "mv", f"{manifest}.whole", manifest)
    deployment.sql("delete from llm_backends")
    done = deployment.run("restore", made["id"])
    assert done.code == 0, done.output
    assert deployment.sql("select count(*) from llm_backends") == "1"
    assert deployment.who_answers() == "mlx"
    entry = deployment.releases()[-1]
    assert (entry["action"], entry["outcome"], entry["restored"]["backup"]) == ("restore", "in force", made["id"])
    assert [step["step"] for step in entry["steps"] if "done" in step] == [
        "backup",
        "swap",
        "schema",
        "backends",
        "proof",
    ]
    assert entry["restores"] == (before["restores"] or before["id"])
    assert entry["content"]["images"] == before["content"]["images"]
    first = json.loads(deployment.trial.on("db", "runuser", "-u", "postgres", "--", "athena-backup", "list"))[0]
    again = deployment.run("restore", first["id"])  # of the first deployment, from before anything was registered
    assert again.code == 0, again.output
    assert deployment.sql("select count(*) from llm_backends") == "1"
    assert deployment.run("status").code == 0
    unknown = deployment.run("restore", "athena-19700101T000000Z")
    assert unknown.code == 1, unknown.output
    assert deployment.told("status")["lock"] == ""
