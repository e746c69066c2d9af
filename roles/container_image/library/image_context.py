#!/usr/bin/python
"""Say what an image is made of, and copy that into a build context in which nothing depends on this machine."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: image_context
short_description: Digest and copy what an image is made of
description: >-
  What the `.dockerignore` of the source lets through is what the image is made of. Settings by which the build reaches
  the package registry (`certificates.pem`, `pip.conf`) decide nothing, and are neither digested nor copied.
options:
  source: {description: The folder with `Dockerfile` and `.dockerignore`., type: path, required: true}
  ingredients:
    description: What else decides about the image, such as the base image; it goes into the digest.
    type: dict
    default: {}
  folder: {description: An empty folder to copy to; without it nothing is copied., type: path}
"""
SETTINGS = {"certificates.pem", "pip.conf"}


def main() -> None:
    """Answer `content`, the digest, and `locks`, the name and digest of each lock file."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "ingredients": {"type": "dict", "default": {}},
            "folder": {"type": "path"},
        },
        supports_check_mode=True,
    )
    source = Path(module.params["source"])
    try:
        files = list(sources(source))
        content = digest(source, files, module.params["ingredients"])
        locks = [{"name": path.name, "digest": {"sha256": sha256(path)}} for path in files if path.match("*.txt")]
        if module.params["folder"] and not module.check_mode:
            copy(source, files, Path(module.params["folder"]))
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"What the image is made of cannot be read: {error}")
    module.exit_json(changed=bool(module.params["folder"]), content=content, locks=locks)


def sources(source: Path) -> Iterator[Path]:
    """Return the files that an image is made of, in order."""
    names = [line[1:] for line in (source / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    yield source / ".dockerignore"
    yield source / "Dockerfile"
    for name in sorted(set(names) - SETTINGS):
        path = source / name
        if not path.exists():
            raise ValueError(f"{path}, which .dockerignore names, is not there")
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)


def digest(source: Path, files: list[Path], ingredients: dict[str, Any]) -> str:
    """Return the digest of all that decides what is in the image."""
    lines = [f"{sha256(path)} {mode(path):o} {path.relative_to(source)}\n" for path in files]
    return hashlib.sha256(("".join(lines) + json.dumps(ingredients, sort_keys=True)).encode()).hexdigest()


def copy(source: Path, files: list[Path], folder: Path) -> None:
    """Copy the files, with permissions that the person's umask has no part in."""
    for path in files:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(mode(path))


def mode(path: Path) -> int:
    """Return the permissions that git would keep."""
    return 0o755 if path.stat().st_mode & 0o100 else 0o644


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
