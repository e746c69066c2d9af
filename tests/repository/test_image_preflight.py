"""What is said of a Docker that cannot build an image, by the entry that a deployment asks before its lock."""

import json
import sys
from pathlib import Path

import pytest
from playing import run_plays

# Each of its commands that the entry gives it; a daemon that is away is told so with exit code 0, as Docker does.
DOCKER = """#!/bin/sh
echo "$1" >>{folder}/asked
case $1 in
  info) {info} ;;
  image) {image} ;;
  pull) {pull} ;;
esac
"""
WELL = {
    "info": "echo 28.1.0 linux/x86_64 /var/lib/docker",
    "image": "echo debian@sha256:00",
    "pull": "exit 1",
}
AWAY = {**WELL, "info": "echo ' / '; echo cannot connect >&2", "image": "exit 1"}
CLOSED = {**WELL, "image": "exit 1", "pull": "echo no such host >&2; exit 1"}
NO_DOCKERFILE = "There is no Dockerfile in /nowhere"
NO_DAEMON = "cannot connect"
NO_BASE = "The base image debian:of-a-test is not here, and cannot be pulled: no such host"


def looked(folder: Path, answers: dict[str, str], *arguments: str) -> tuple[list[str], list[str]]:
    """Return what the entry says of a Docker with these answers, and what Docker was asked."""
    docker = folder / "docker"
    docker.write_text(DOCKER.format(folder=folder, **answers))
    docker.chmod(0o755)
    tasks = [
        {"ansible.builtin.import_role": {"name": "container_image", "tasks_from": "preflight"}},
        {"ansible.builtin.debug": {"msg": "It says: {{ container_image_problems | to_json }}"}},
    ]
    variables = {
        "ansible_python_interpreter": sys.executable,
        "container_image_docker": str(docker),
        "container_image_repository": "registry.example.internal/athena",
        "container_image_base": "debian:of-a-test",
        "container_image_source": "/nowhere",
    }
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]
    done = run_plays(folder, plays, *arguments, variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.partition("It says: ")[2].splitlines()[0])
    return told, (folder / "asked").read_text().split()


@pytest.mark.parametrize(
    ("answers", "words", "asked"),
    [
        (WELL, [NO_DOCKERFILE], ["info", "image"]),
        (AWAY, [NO_DOCKERFILE, NO_DAEMON], ["info", "image"]),
        (CLOSED, [NO_DOCKERFILE, NO_BASE], ["info", "image", "pull", "image"]),
    ],
    ids=["a daemon and a base image", "no daemon", "a base image that cannot be had"],
)
def test_all_that_keeps_an_image_from_being_built_is_told_at_once(
    tmp_path: Path, answers: dict[str, str], words: list[str], asked: list[str]
) -> None:
    told, commands = looked(tmp_path, answers)
    assert len(told) == len(words)
    assert [one for one, word in zip(told, words, strict=True) if word in one] == told
    assert commands == asked


def test_a_check_pulls_nothing(tmp_path: Path) -> None:
    told, commands = looked(tmp_path, CLOSED, "--check")
    assert (len(told), commands) == (1, ["info", "image"])
