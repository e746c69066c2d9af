#!/usr/bin/python
"""Ask registries which images they have: the digest by which nodes pull each, and the platforms that it is for.

What a name stands for may be one image, or an index of several, one for each platform. The digest is then that of the
index: a node picks from it what is for its own platform.
"""

import hashlib
import json
from http import HTTPStatus
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.image_registry import HUB, Registry, at_one_of

DOCUMENTATION = """
module: registry_images
short_description: Know digest and platforms of images, without pulling them
options:
  images:
    description: "The images, [REGISTRY/]NAME[:TAG] or [REGISTRY/]NAME@DIGEST."
    type: list
    elements: str
    required: true
  insecure:
    description: Registries that may use HTTP or a certificate that nobody vouches for.
    type: list
    elements: str
    required: true
  patience: {description: "How long an answer may take, in seconds.", type: int, required: true}
"""
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ACCEPTED = {"Accept": ", ".join((*INDEXES, *MANIFESTS))}


# --- decisions --------------------------------------------------------------------------------------------------------


def place_of(image: str) -> tuple[str, str, str]:
    """Return registry, name and tag or digest of an image, as Docker reads it."""
    rest, at, digest = image.partition("@")
    first, slash, path = rest.partition("/")
    is_registry = slash and ("." in first or ":" in first or first == "localhost")
    registry, name = (first, path) if is_registry else ("docker.io", rest)
    last = name.rpartition("/")[2]
    tag = last.partition(":")[2]
    name = name.removesuffix(f":{tag}") if tag else name
    if registry == "docker.io":
        registry, name = HUB, name if "/" in name else f"library/{name}"
    return registry, name, digest if at else tag or "latest"


def platforms_in(index: dict[str, Any]) -> list[str]:
    """Return the platforms of an index, OS/ARCHITECTURE; what is recorded of an image, as its provenance, has none."""
    told = [entry.get("platform") or {} for entry in index.get("manifests", [])]
    named = {platform_of(one) for one in told if one.get("os") not in (None, "unknown")}
    return sorted(named)


def platform_of(told: dict[str, Any]) -> str:
    """Return the platform that an image's configuration, or its entry in an index, tells."""
    return f"{told.get('os', 'unknown')}/{told.get('architecture', 'unknown')}"


def mismatch(wanted: str, digest: str, said: str) -> str:
    """Return what speaks against content of a digest that was asked for, or told, by another one."""
    others = [one for one in (wanted if ":" in wanted else "", said) if one and one != digest]
    return f"what it answers with has the digest {digest}, and not {others[0]}" if others else ""


# --- the registry -----------------------------------------------------------------------------------------------------


def look(registry: Registry, name: str, wanted: str) -> dict[str, Any]:
    """Return what a registry says of an image: digest, platforms, and what speaks against it."""
    url = f"{registry.base}/v2/{name}"
    status, headers, body = registry.ask("GET", f"{url}/manifests/{wanted}", name, "pull", ACCEPTED)
    if status != HTTPStatus.OK:
        is_missing = status == HTTPStatus.NOT_FOUND
        return {"is_missing": is_missing, "problem": "there is no such image" if is_missing else f"it says {status}"}
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if fault := mismatch(wanted, digest, headers.get("Docker-Content-Digest") or ""):
        return {"problem": fault}
    manifest = json.loads(body)
    kind = manifest.get("mediaType") or headers.get_content_type()
    if kind in INDEXES:
        platforms = platforms_in(manifest)
    elif "config" in manifest:
        status, _, body = registry.ask("GET", f"{url}/blobs/{manifest['config']['digest']}", name, "pull")
        if status != HTTPStatus.OK:
            return {"problem": f"of its configuration it says {status}"}
        platforms = [platform_of(json.loads(body))]
    else:
        return {"problem": f"it is neither an image nor an index of images ({kind})"}
    return {"digest": digest, "platforms": platforms}


def described(image: str, insecure: list[str], patience: int) -> dict[str, Any]:
    """Return what is known of an image: `digest`, `platforms`, `problem`, and whether its registry `is_missing` it."""
    registry, name, wanted = place_of(image)
    told, error = at_one_of(registry, registry in insecure, patience, lambda one: look(one, name, wanted))
    nothing = {"image": image, "digest": "", "platforms": [], "problem": "", "is_missing": False}
    return {**nothing, **(told or {"problem": f"the registry {registry} does not answer: {error}"})}


def main() -> None:
    """Ask for each."""
    module = AnsibleModule(
        argument_spec={
            "images": {"type": "list", "elements": "str", "required": True},
            "insecure": {"type": "list", "elements": "str", "required": True},
            "patience": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    asked = module.params
    found = [described(image, asked["insecure"], asked["patience"]) for image in asked["images"]]
    module.exit_json(changed=False, images=found)


if __name__ == "__main__":
    main()
