"""Trials as the tests start them: the script, what there is of one, and what runs."""

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KUBECONFIG = "/etc/kubernetes/admin.conf"  # on the cluster's node
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "athena-tests"


def run(*command: str | Path, code: int = 0, at: Path = ROOT) -> str:
    """Run a command, and return what it says if it ends with the code. Raises AssertionError if it does not."""
    finished = subprocess.run(command, text=True, capture_output=True, check=False, cwd=at)
    assert finished.returncode == code, finished.stdout + finished.stderr
    return (finished.stdout if code == 0 else finished.stderr).strip()


trial: Callable[..., str] = partial(run, ROOT / "molecule" / "shared" / "trial")


def left_of(name: str) -> list[str]:
    """Return what there is of a trial."""
    registry = CACHE / "trials" / name / "registry"
    images = f"reference={registry.read_text().strip()}/*" if registry.exists() else "reference=none"
    return [
        *run("docker", "ps", "--all", "--filter", f"name=^/{name}-", "--format", "{{.Names}}").split(),
        *run("docker", "images", "--filter", images, "--format", "{{.Repository}}:{{.Tag}}").split(),
        *map(str, CACHE.glob(f"*/{name}*")),
        *map(str, (ROOT / "inventory").glob(f"{name}*")),
    ]


class Trial:
    """A trial that runs, of this checkout or of a copy of it."""

    def __init__(self, name: str, root: Path = ROOT) -> None:
        self.name, self.root = name, root
        self.inventory = root / "inventory" / name
        self.listed = json.loads(run("ansible-inventory", "--inventory", self.inventory, "--list"))
        self.variables: dict[str, Any] = self.listed["_meta"]["hostvars"][f"{name}-db"]

    def on(self, host: str, *command: str) -> str:
        return run("docker", "exec", f"{self.name}-{host}", *command)

    def kubectl(self, *arguments: str) -> str:
        return self.on("cluster", "kubectl", "--kubeconfig", KUBECONFIG, *arguments)

    def apply(self, manifest: dict[str, Any]) -> None:
        """Have an object on the cluster."""
        applying = 'echo "$1" | kubectl --kubeconfig "$2" apply --filename -'
        self.on("cluster", "sh", "-c", applying, "sh", json.dumps(manifest), KUBECONFIG)
