"""How a registry is asked for an image: where it is, who we are, and where its storage is another's.

What a real registry answers is asked for in molecule/container_image.
"""

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest
from loading import load

CONFIGURATION = json.dumps({"os": "linux", "architecture": "arm64"}).encode()
CONFIGURATION_DIGEST = f"sha256:{hashlib.sha256(CONFIGURATION).hexdigest()}"
OCI = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = json.dumps({"mediaType": OCI, "config": {"digest": CONFIGURATION_DIGEST}}).encode()
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"


@pytest.fixture(scope="module")
def images() -> ModuleType:
    load("roles/container_image/module_utils/image_registry.py")
    return load("roles/container_image/library/registry_images.py")


@pytest.mark.parametrize(
    ("image", "place"),
    [
        ("redis", ("registry-1.docker.io", "library/redis", "latest")),
        ("redis:7@sha256:1", ("registry-1.docker.io", "library/redis", "sha256:1")),
        ("team/athena:git-1", ("registry-1.docker.io", "team/athena", "git-1")),
        ("docker.io/team/athena", ("registry-1.docker.io", "team/athena", "latest")),
        ("127.0.0.1:5000/athena", ("127.0.0.1:5000", "athena", "latest")),
        ("localhost/athena:a", ("localhost", "athena", "a")),
        ("registry.example.internal/team/athena@sha256:1", ("registry.example.internal", "team/athena", "sha256:1")),
    ],
)
def test_an_image_is_read_as_docker_reads_it(images: ModuleType, image: str, place: tuple[str, str, str]) -> None:
    assert images.place_of(image) == place


class Registry(BaseHTTPRequestHandler):
    """Has one image, for whom its token server knows; blobs are on storage that wants no token."""

    told = DIGEST
    log: list[str]

    def do_GET(self) -> None:
        who = self.headers.get("Authorization", "")
        self.log.append(f"{self.path} {who}".strip())
        if self.path.startswith("/token"):
            self._say(200, json.dumps({"token": "of-nobody"}).encode())
        elif self.path.startswith("/storage"):
            self._say(400 if who else 200, CONFIGURATION)
        elif who != "Bearer of-nobody":
            self._say(401, told=f'Bearer realm="http://{self.headers["Host"]}/token",service="s"')
        elif "/blobs/" in self.path:
            self.send_response(307)
            self.send_header("Location", f"http://{self.headers['Host']}/storage")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._say(200, MANIFEST)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _say(self, status: int, body: bytes = b"", told: str = "") -> None:
        self.send_response(status)
        for name, value in {
            "WWW-Authenticate": told,
            "Content-Length": str(len(body)),
            "Content-Type": OCI,
            "Docker-Content-Digest": self.told,
        }.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Registry]]:
    """Yield the registry, whose address is its `place`; nobody has logged in there."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    handler = type("Handler", (Registry,), {"log": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        monkeypatch.setattr(handler, "place", f"127.0.0.1:{listening.server_port}", raising=False)
        yield handler
        listening.shutdown()


def test_who_may_read_is_asked_for_and_not_told_to_the_storage(images: ModuleType, registry: type[Registry]) -> None:
    place = registry.place  # type: ignore[attr-defined]
    found = images.described(f"{place}/team/athena:1", [place], 5)
    assert (found["problem"], found["digest"], found["platforms"]) == ("", DIGEST, ["linux/arm64"])
    assert any("scope=repository%3Ateam%2Fathena%3Apull" in line for line in registry.log)
    assert registry.log[-1] == "/storage"


def test_content_of_another_digest_is_refused(
    images: ModuleType, registry: type[Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = registry.place  # type: ignore[attr-defined]
    other = f"sha256:{'1' * 64}"
    assert f"and not {other}" in images.described(f"{place}/athena@{other}", [place], 5)["problem"]
    monkeypatch.setattr(registry, "told", other)
    assert f"and not {other}" in images.described(f"{place}/athena:1", [place], 5)["problem"]
