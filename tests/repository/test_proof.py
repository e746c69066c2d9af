"""What is said where the engines of the routes could not be asked."""

from pathlib import Path

import pytest
import yaml
from loading import ROOT
from playing import run_plays


@pytest.mark.parametrize(
    ("stderr", "stdout", "told"),
    [("no such account", "{}", "no such account"), ("", "image is not there", "image is not there")],
    ids=["an error", "nothing but output"],
)
def test_what_the_command_said_is_told(tmp_path: Path, stderr: str, stdout: str, told: str) -> None:
    tasks = yaml.safe_load((ROOT / "playbooks/tasks/cluster/prove.yml").read_text())
    judges = [task for task in tasks if task["name"] == "Refuse a route with an engine that does not answer"]
    variables = {
        "kubernetes_app_told": {"rc": 1, "stdout": stdout, "stderr": stderr},
        "athena_proof_spares_engines": True,
    }
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": judges}]
    done = run_plays(tmp_path, plays, variables=variables)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"The engines could not be asked: {told}." in done.stdout + done.stderr
