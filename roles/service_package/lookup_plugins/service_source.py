"""The version that a source folder of the service package would be built as, found without building it."""

import hashlib
import tomllib
from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

# What reaches the package or its environment; tests and caches do not.
PARTS = ("pyproject.toml", "requirements.txt", "src", "migrations")


class LookupModule(LookupBase):
    """`lookup('service_source', FOLDER)` returns `{"version": "0.1.0+g1234…", "digest": "sha256:…"}`."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **_: Any) -> list[dict[str, str]]:
        """Return version and digest of each folder."""
        return [describe(Path(term)) for term in terms]


def describe(folder: Path) -> dict[str, str]:
    """Return the version, which carries a part of the digest, and the digest of all that the package is made of."""
    digest = hashlib.sha256()
    for path in sorted(source_files(folder)):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    version = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"]
    return {"version": f"{version}+g{digest.hexdigest()[:12]}", "digest": f"sha256:{digest.hexdigest()}"}


def source_files(folder: Path) -> list[Path]:
    """Return the files that the package and its environment are made of."""
    found = [path for part in PARTS for path in [folder / part, *(folder / part).rglob("*")]]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]
