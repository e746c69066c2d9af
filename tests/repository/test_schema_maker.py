"""Which image of a cluster's runs knows a revision that a killed run migrated to, and that no ledger has.

A registry on this machine has what is left of the images; what each would answer is a command that notes its calls.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from loading import ROOT
from playing import run_plays
from serving import Answering, serving

OCI = "application/vnd.oci.image.index.v1+json"


def index_of(version: str) -> bytes:
    """Return what the registry has of a version."""
    return json.dumps({"mediaType": OCI, "manifests": [], "annotations": {"version": version}}).encode()


def digest_of(version: str) -> str:
    return f"sha256:{hashlib.sha256(index_of(version)).hexdigest()}"


class Registry(Answering, BaseHTTPRequestHandler):
    """Has the versions 1 to 3; that of the fourth is there no more."""

    contents = {digest_of(version): index_of(version) for version in "123"}  # noqa: RUF012

    def do_GET(self) -> None:
        body = self.contents.get(self.path.rpartition("/")[2])
        self.answer(200 if body else 404, body or b"", {"Content-Type": OCI})


@pytest.fixture
def registry() -> Iterator[str]:
    with serving(Registry) as address:
        yield address


def find(folder: Path, registry: str, at: str) -> tuple[str, list[str]]:
    """Find who knows a revision; return what was said in the end, and which versions were asked."""
    images = {version: f"{registry}/athena@{digest_of(version)}" for version in "1234"}
    for version, revisions in {"1": ["a"], "2": ["a", "b"], "3": ["a", "b", "c"], "4": ["a", "b", "c", "d"]}.items():
        program = folder / digest_of(version).removeprefix("sha256:")
        program.write_text(f"#!/bin/sh\necho {version} >>{folder}/asked\necho '{json.dumps(revisions)}'\n")
        program.chmod(0o755)
    (folder / "asked").touch()
    (folder / "url").write_text("postgresql://nobody@127.0.0.1:9/none\n")

    def run_of(version: str, schema: str | None, outcome: str) -> dict[str, Any]:
        content = {"images": {"service": images[version]}, "schema": schema, "schema_stays_ahead": False}
        return {"content": content, "outcome": outcome}

    killed = "stopped, not taken back"
    known = [run_of("1", "a", "in force"), run_of("2", "b", "in force"), run_of("3", None, killed)]
    variables = {
        "ansible_python_interpreter": sys.executable,
        "release_known": {"runs": [*known, run_of("4", None, killed)]},
        "athena_schema_found": at,
        "athena_registry_pull": registry,
        "athena_registry_push": registry,
        "container_image_repository": f"{registry}/athena",
        "schema_athena": f"{folder}/{{{{ schema_image | regex_replace('^.*sha256:', '') }}}}",
        "schema_database_url_file": str(folder / "url"),
    }
    tasks = [
        {"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/cluster/find_maker.yml")},
        {"ansible.builtin.debug": {"msg": "It is {{ athena_schema_maker }}"}},
    ]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    done = run_plays(folder, [play], variables=variables)
    return done.stdout + done.stderr, (folder / "asked").read_text().split()


def test_what_a_release_has_recorded_is_believed(tmp_path: Path, registry: str) -> None:
    said, asked = find(tmp_path, registry, "b")
    assert f"It is {registry}/athena@{digest_of('2')}" in said
    assert asked == []


def test_otherwise_images_that_are_left_are_asked_the_last_first(tmp_path: Path, registry: str) -> None:
    said, asked = find(tmp_path, registry, "c")
    assert f"It is {registry}/athena@{digest_of('3')}" in said
    assert asked == ["3"]


def test_where_none_knows_it_nothing_is_begun(tmp_path: Path, registry: str) -> None:
    said, asked = find(tmp_path, registry, "d")
    assert "no image of the ledger that the registry still has knows it" in said
    assert asked == ["3", "2", "1"]
