"""What the role says where it cannot go on."""

import os
import subprocess
from pathlib import Path

import pytest

CONVERGE = Path(__file__).parents[1] / "converge.yml"

REFUSALS = {
    "no Docker": (["container_image_docker=no-such-docker"], "name another command in container_image_docker"),
    "no base image": (["container_image_base=127.0.0.1:9/none:1"], "Name one that can in container_image_base"),
    "no registry": (
        ["container_image_push_repository=127.0.0.1:9/athena"],
        "Name another address in container_image_push_repository",
    ),
    "no source": (["container_image_source=/nonexistent"], "container_image_source"),
}


@pytest.mark.parametrize(("variables", "remedy"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_names_the_variable_and_the_remedy(variables: list[str], remedy: str) -> None:
    command = ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], str(CONVERGE)]
    for variable in variables:
        command += ["--extra-vars", variable]
    environment = {**os.environ, "ANSIBLE_ROLES_PATH": str(CONVERGE.parents[2] / "roles")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert remedy in " ".join((done.stdout + done.stderr).split())
