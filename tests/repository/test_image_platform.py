"""For which platform the image is built, and that one for another never has its tag."""

import re
import sys
from pathlib import Path

import pytest
from loading import ROOT
from playing import run_plays


@pytest.fixture
def docker(tmp_path: Path) -> str:
    """A Docker on a Mac with Apple silicon, as far as it is asked what it is."""
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 28.1.0+of-a-test linux/aarch64 /var/lib/docker\n")
    program.chmod(0o755)
    return str(program)


def planned(folder: Path, docker: str) -> tuple[str, str]:
    """Return platform and tag of the image that the role would build with a docker command."""

    def entry(name: str) -> dict[str, object]:
        return {"ansible.builtin.include_role": {"name": "container_image", "tasks_from": name, "public": True}}

    show = {"ansible.builtin.debug": {"msg": "{{ container_image_platform }} has {{ container_image_content_tag }}."}}
    plays = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "tasks": [entry("platform"), entry("plan"), show],
        }
    ]
    variables = {
        "ansible_python_interpreter": sys.executable,
        "container_image_docker": docker,
        "container_image_repository": "registry.example.internal/athena",
        "container_image_source": str(ROOT / "service"),
    }
    done = run_plays(folder, plays, variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    (told,) = re.findall(r"(\S*) has (content-\S+)\.", done.stdout)
    return told[0], told[1]


@pytest.mark.parametrize(
    ("said", "platform"), [("", "linux/arm64"), ("linux/amd64", "linux/amd64"), ("linux/arm64/v8", "linux/arm64")]
)
def test_it_is_built_for_what_docker_is_on_unless_the_environment_says_another(
    tmp_path: Path, docker: str, monkeypatch: pytest.MonkeyPatch, said: str, platform: str
) -> None:
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", said)
    assert planned(tmp_path, docker)[0] == platform


def test_without_docker_there_is_no_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_DEFAULT_PLATFORM", raising=False)
    assert planned(tmp_path, str(tmp_path / "no-such-docker"))[0] == ""


def test_the_same_source_for_two_platforms_has_two_tags(
    tmp_path: Path, docker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_DEFAULT_PLATFORM", raising=False)
    here, again = planned(tmp_path, docker), planned(tmp_path, docker)
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/amd64")
    elsewhere = planned(tmp_path, docker)
    assert here == again
    assert here[1] != elsewhere[1]
