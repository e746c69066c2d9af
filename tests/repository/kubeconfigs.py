"""Files that say where a cluster is, of a test's own."""

import json
from pathlib import Path


def kubeconfig(folder: Path, server: str) -> str:
    """Write the file that says where a cluster is; returns its path."""
    file = folder / "kubeconfig"
    named = {"name": "it"}
    file.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "it",
                "contexts": [{**named, "context": {"cluster": "it", "user": "it"}}],
                "clusters": [{**named, "cluster": {"server": server}}],
                "users": [{**named, "user": {"token": "of-a-test"}}],
            }
        )
    )
    return str(file)
