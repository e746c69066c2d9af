"""How the registry is asked whether it takes an image: with a registry that asks who we are, or refuses."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import ModuleType

import pytest
from loading import load
from serving import Answering, serving

LOGIN = base64.b64encode(b"alice:pass:word").decode()
UPLOADS = "/v2/team/athena/blobs/uploads/"


@pytest.fixture(scope="module")
def push() -> ModuleType:
    load("roles/container_image/module_utils/image_registry.py")
    return load("roles/container_image/library/registry_push.py")


class Registry(Answering, BaseHTTPRequestHandler):
    """Takes an upload from whom `asks` lets in; `log` has what it was asked."""

    asks = ""
    refuses = 0
    log: list[str]

    def do_POST(self) -> None:
        self.log.append(f"POST {self.path}")
        if self.refuses:
            self.answer(self.refuses)
        elif self.asks == "basic" and self.headers.get("Authorization") != f"Basic {LOGIN}":
            self.answer(401, headers={"WWW-Authenticate": 'Basic realm="here"'})
        elif self.asks == "bearer" and self.headers.get("Authorization") != "Bearer it-is-me":
            realm = f"http://{self.headers['Host']}/token"
            self.answer(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="registry"'})
        else:
            self.answer(202, headers={"Location": f"{UPLOADS}1234?state=x"})

    def do_GET(self) -> None:
        self.log.append(f"GET {self.path}")
        is_known = self.headers.get("Authorization") == f"Basic {LOGIN}"
        self.answer(200 if is_known else 401, json.dumps({"token": "it-is-me"} if is_known else {}).encode())

    def do_DELETE(self) -> None:
        self.log.append(f"DELETE {self.path}")
        self.answer(204)


@contextmanager
def registry(asks: str = "", refuses: int = 0) -> Iterator[tuple[str, list[str]]]:
    log: list[str] = []
    handler = type("Handler", (Registry,), {"asks": asks, "refuses": refuses, "log": log})
    with serving(handler) as address:
        yield address, log


@pytest.fixture
def logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of `docker login`, of nobody yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


@pytest.mark.usefixtures("logged_in")
def test_an_upload_is_begun_and_given_up(push: ModuleType) -> None:
    with registry() as (place, log):
        assert push.look(place, "team/athena", True, 5) == ""
    assert log == [f"POST {UPLOADS}", f"DELETE {UPLOADS}1234?state=x"]


@pytest.mark.parametrize("asks", ["basic", "bearer"])
def test_a_registry_that_asks_is_told_what_docker_login_left(push: ModuleType, logged_in: Path, asks: str) -> None:
    with registry(asks) as (place, log):
        refused = push.look(place, "team/athena", True, 5)
        assert f"docker login {place}" in refused
        assert "401" in refused
        logged_in.write_text(json.dumps({"auths": {place: {"auth": LOGIN}}}))
        assert push.look(place, "team/athena", True, 5) == ""
    assert log[-1].startswith("DELETE")
    if asks == "bearer":
        assert any("scope=repository%3Ateam%2Fathena%3Apull%2Cpush" in line for line in log)


def test_a_program_that_keeps_the_login_is_asked(
    push: ModuleType, logged_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker-credential-of-a-test"
    program.write_text('#!/bin/sh\necho \'{"Username": "alice", "Secret": "pass:word"}\'\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    logged_in.write_text(json.dumps({"credsStore": "of-a-test"}))
    with registry("basic") as (place, _):
        assert push.look(place, "team/athena", True, 5) == ""


@pytest.mark.usefixtures("logged_in")
@pytest.mark.parametrize(("status", "words"), [(405, "can only be read"), (403, "docker login"), (500, "Its log")])
def test_a_refusal_is_told_with_the_remedy(push: ModuleType, status: int, words: str) -> None:
    with registry(refuses=status) as (place, log):
        said = push.look(place, "team/athena", True, 5)
    assert words in said
    assert f"it says {status}" in said
    assert [line for line in log if line.startswith("DELETE")] == []


@pytest.mark.usefixtures("logged_in")
def test_a_registry_that_is_not_there_is_told_with_the_setting(push: ModuleType) -> None:
    said = push.look("127.0.0.1:9", "team/athena", True, 5)
    assert "does not answer" in said
    assert "athena_registry_push" in said
