"""Several images under one name, an index, in a real registry: the digest that nodes pull, and its platforms."""

import os
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from image_index import DOCKER, ELSEWHERE, HERE, OCI, push_index
from loading import load
from testinfra.host import Host


@pytest.fixture(scope="module")
def registry(host: Host) -> str:
    """Return the address under which the controller knows the registry."""
    return docker("port", host.backend.get_hostname(), "5000/tcp")


@pytest.fixture(scope="module")
def built() -> str:
    """Return the digest of the image that the role has pushed."""
    reference = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "records" / "reference"
    return reference.read_text().partition("@")[2]


@pytest.fixture(scope="module")
def images() -> ModuleType:
    load("roles/container_image/module_utils/image_registry.py")
    return load("roles/container_image/library/registry_images.py")


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def asked(images: ModuleType, registry: str, version: str) -> dict[str, Any]:
    found: dict[str, Any] = images.described(f"{registry}/athena{version}", [registry], 10)
    return found


@pytest.mark.parametrize("kind", [OCI, DOCKER], ids=["OCI", "Docker"])
def test_of_an_index_the_digest_is_its_own_and_the_platforms_are_those_of_its_images(
    images: ModuleType, registry: str, built: str, kind: str
) -> None:
    # What is recorded of an image, its provenance, is in the index as well, for no platform.
    pushed = push_index(f"{registry}/athena", "of-two", built, [HERE, ELSEWHERE, "unknown/unknown"], kind)
    found = asked(images, registry, ":of-two")
    assert (found["problem"], found["digest"]) == ("", pushed)
    assert found["platforms"] == sorted([HERE, ELSEWHERE])
    assert asked(images, registry, f"@{pushed}")["digest"] == pushed
    assert pushed != built
    docker("pull", "--quiet", f"{registry}/athena@{pushed}")  # as a node does: it takes that of its platform
    docker("rmi", f"{registry}/athena@{pushed}")


def test_an_image_by_itself_is_for_the_platform_that_it_was_built_on(
    images: ModuleType, registry: str, built: str
) -> None:
    found = asked(images, registry, f"@{built}")
    assert (found["problem"], found["digest"], found["platforms"]) == ("", built, [HERE])


def test_what_is_not_there_is_missing_and_a_registry_that_is_away_does_not_answer(
    images: ModuleType, registry: str
) -> None:
    for version in (":no-such", f"@sha256:{'0' * 64}"):
        missing = asked(images, registry, version)
        assert (missing["is_missing"], missing["problem"]) == (True, "there is no such image")
    away = asked(images, "127.0.0.1:9", ":any")
    assert away["is_missing"] is False
    assert "the registry 127.0.0.1:9 does not answer" in away["problem"]
