"""The digest of what roles do: where it is another, a host may change though its declaration is the same."""

import hashlib
from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: fleet_code
short_description: The digest of the files of roles
options:
  _terms: {description: The folders of the roles., required: true}
"""


class LookupModule(LookupBase):
    """`lookup('fleet_code', FOLDER, …)`."""

    def run(self, terms: list[str], variables: Any = None, **_: Any) -> list[str]:
        """Return one digest of all of them; what is written for readers does not count."""
        digest = hashlib.sha256()
        for folder in sorted(map(Path, terms)):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.suffix not in (".md", ".pyc"):
                    digest.update(f"{folder.name}/{path.relative_to(folder)}\0".encode())
                    digest.update(hashlib.sha256(path.read_bytes()).digest())
        return [digest.hexdigest()[:16]]
