"""Several images under one name: an index, put into a real registry by its HTTP API."""

import hashlib
import json
import platform
from typing import Any

import httpx

OCI, DOCKER = "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"
IMAGES = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
HERE = "linux/" + {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
ELSEWHERE = "linux/s390x"


def push_index(repository: str, tag: str, image: str, platforms: list[str], kind: str = OCI) -> str:
    """Have an index under a tag that has an image, by its digest, for each of the platforms; return its own digest.

    `repository` is REGISTRY/NAME of a registry that speaks HTTP.
    """
    registry, _, name = repository.partition("/")
    manifests = f"http://{registry}/v2/{name}/manifests"
    manifest = httpx.get(f"{manifests}/{image}", headers={"Accept": IMAGES}).raise_for_status()
    entries = [entry(one, manifest.content, manifest.headers["Content-Type"]) for one in platforms]
    body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    httpx.put(f"{manifests}/{tag}", content=body, headers={"Content-Type": kind}).raise_for_status()
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def entry(of: str, manifest: bytes, kind: str) -> dict[str, Any]:
    """Return what an index says of an image, as that for a platform."""
    system, _, architecture = of.partition("/")
    return {
        "mediaType": kind,
        "size": len(manifest),
        "digest": f"sha256:{hashlib.sha256(manifest).hexdigest()}",
        "platform": {"os": system, "architecture": architecture},
    }
