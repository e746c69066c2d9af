"""An update of which a part does not start: it is taken back, schema included, also without one of the engines."""

from deployment import A_TABLE, Deployment

IMPATIENT = ("-e", "kubernetes_app_patience=60")


def test_an_update_that_cannot_run_is_taken_back() -> None:
    deployment = Deployment.of_the_scenario()
    deployment.add_migrations(A_TABLE)
    source = deployment.clone / "service" / "src" / "athena" / "orchestrator" / "app.py"
    sound, before = source.read_text(), deployment.schema()
    source.write_text(sound + "\nraise RuntimeError('of a test')\n")
    try:
        done = deployment.run(
            "update", *IMPATIENT, at={"That failed": lambda: deployment.trial.on("engines", "systemctl", "stop", "mlx")}
        )
    finally:
        source.write_text(sound)
        deployment.trial.on("engines", "systemctl", "start", "mlx")
    assert done.code == 3, done.output
    assert "Not every engine answered" in done.output
    assert "of a test" in done.output
    assert deployment.schema() == before
    assert deployment.told("status", *IMPATIENT)["problems"] == []
    assert deployment.releases()[-1]["outcome"] == "failed, taken back"
