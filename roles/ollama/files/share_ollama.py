"""Let other hosts copy Ollama's models: as share_models.py does, out of the folder in which Ollama keeps them.

usage: share_ollama.py FOLDER ADDRESS PORT

    /                    the models: {DIGEST: [BLOB, …]}, by the digest that `ollama list` shows the beginning of
    /manifests/DIGEST    the manifest of one
    /blobs/BLOB          a blob that a manifest names, or the rest of it from a byte on (`Range: bytes=N-`)
"""

from __future__ import annotations  # a host's Python may be 3.9

import hashlib
import json
import re
import sys
from pathlib import Path

from share_models import Handler, main

BLOB = re.compile(r"sha256-[0-9a-f]{64}")


def blobs_of(manifest: bytes) -> list[str]:
    """Return the names of the blobs that a manifest of Ollama's names; none of what is no manifest."""
    try:
        known = json.loads(manifest)
        names = [layer["digest"].replace(":", "-") for layer in (known["config"], *known["layers"])]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return names if all(map(BLOB.fullmatch, names)) else []


def manifests_in(folder: Path) -> dict[str, tuple[Path, list[str]]]:
    """Return digest → file and blobs of the models that are whole."""
    found: dict[str, tuple[Path, list[str]]] = {}
    for path in sorted((folder / "manifests").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            names = blobs_of(content)
            if names and all((folder / "blobs" / name).is_file() for name in names):
                found[hashlib.sha256(content).hexdigest()] = path, names
    return found


class OllamaHandler(Handler):
    """One caller."""

    def models(self) -> dict[str, list[str]]:
        """Return digest → blobs."""
        return {digest: names for digest, (_, names) in manifests_in(self.folder).items()}

    def file(self) -> Path | None:
        """Return the manifest or the blob that is asked for; None where no whole model has it."""
        there = manifests_in(self.folder)
        kind, _, name = self.path.lstrip("/").partition("/")
        if kind == "manifests" and name in there:
            return there[name][0]
        is_given = kind == "blobs" and any(name in names for _, names in there.values())
        return self.folder / "blobs" / name if is_given else None


if __name__ == "__main__":
    main(*sys.argv[1:], kind=OllamaHandler)
