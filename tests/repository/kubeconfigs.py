"""Files that say where a cluster is, of a test's own."""

import json
from pathlib import Path


def kubeconfig(folder: Path, server: str, held: str = "") -> str:
    """Write the file that says where a cluster is; returns its path.

    With `held`, in Base64, that is every certificate and key in it, and there is no token.
    """
    authority = {"certificate-authority-data": held} if held else {}
    user = {"client-certificate-data": held, "client-key-data": held} if held else {"token": "of-a-test"}
    file = folder / "kubeconfig"
    named = {"name": "it"}
    file.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "it",
                "contexts": [{**named, "context": {"cluster": "it", "user": "it"}}],
                "clusters": [{**named, "cluster": {"server": server, **authority}}],
                "users": [{**named, "user": user}],
            }
        )
    )
    return str(file)
