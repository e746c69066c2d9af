"""An environment on a cluster of which there is nothing but vault and ledger, for real plays to run on.

The release in force is of version 1 of every secret, and knows the database by the certificate `old`.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import yaml
from loading import ROOT, load
from playing import run_plays

NAMES = ("admin-token", "jwt-secret", "database-owner", "database-application", "redis-password")
CA = "/etc/athena/database-ca.crt"
OLD_EGRESS = {"cidr": "192.0.2.10/32", "ports": [5432]}
EGRESS = {"cidr": "192.0.2.20/32", "ports": [5432]}
TRACES = {"cidr": "192.0.2.30/32", "ports": [4318]}
CONTENT: dict[str, Any] = {
    "version": "1",
    "images": {"service": "an-image", "redis": "redis"},
    "schema": "a",
    "schema_stays_ahead": False,
    "backends": [{"model_name": "phi3:mini", "backend_type": "mlx", "endpoint_url": "http://192.0.2.31:8080"}],
    "applications": {"admin": {"port": 8080, "files": {CA: "old"}, "egress_to": [OLD_EGRESS, TRACES]}},
    "database_egress": [OLD_EGRESS],
    "secrets": dict.fromkeys(NAMES, 1),
}
Tasks = list[dict[str, Any]]
NOTHING: Tasks = [{"ansible.builtin.meta": "noop"}]


@dataclass
class Ended:
    """How a run ended."""

    said: str
    verdict: int
    last: dict[str, Any]  # the ledger's last entry
    locked: bool

    @property
    def in_force_again(self) -> dict[str, Any] | None:
        """What was brought into force on the way back; None where nothing was."""
        lines = [line.partition("In force: ")[2] for line in self.said.splitlines() if "In force: " in line]
        told: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
        return told


class Environment:
    """An environment on a cluster with a database host, of which nothing is there but vault and ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        (folder / "exchange").mkdir()
        (folder / "group_vars").symlink_to(ROOT / "group_vars")
        local = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "athena_database_address": "192.0.2.20",
            "athena_redis_image": "redis",
            "athena_kubeconfig": "/nowhere",
            "release_state_dir": str(self.state),
            "release_exchange": str(folder / "exchange"),
            "release_needs_packages": False,
        }
        groups = {"cluster": {"hosts": {"controller": local}}, "database": {"hosts": {"db": local}}}
        (folder / "hosts.yml").write_text(yaml.safe_dump(groups))
        times = {"since": "2026-01-01T00:00:00+00:00", "until": "2026-01-01T00:01:00+00:00"}
        entry = {"id": "r1", "outcome": "in force", "action": "deploy", "restores": None, "replaces": None}
        (self.state / "ledger").mkdir(parents=True)
        (self.state / ".athena-environment").touch()
        (self.state / "ledger" / "r1.json").write_text(json.dumps({**entry, **times, "content": CONTENT}))
        vault = load("roles/release/action_plugins/environment_vault.py")
        password = self.state / "vault-password"
        password.write_text("of a test\n")
        first = json.dumps(vault.renewed({}, list(NAMES), {}, []))
        (self.state / "vault.yml").write_bytes(vault._vault(password).encrypt(first))

    def run(self, plays: list[dict[str, Any]], instead: dict[str, Tasks], **variables: Any) -> Ended:
        """Run plays with these files of tasks in the place of theirs."""
        copytree(ROOT / "playbooks" / "tasks", self.folder / "tasks", dirs_exist_ok=True)
        for name, tasks in instead.items():
            (self.folder / "tasks" / "cluster" / f"{name}.yml").write_text(yaml.safe_dump(tasks))
        done = run_plays(self.folder, plays, inventory=self.folder / "hosts.yml", variables=variables)
        told = sorted((self.state / "ledger").iterdir(), key=lambda path: int(path.stem.removeprefix("r")))
        assert (self.folder / "exchange" / "verdict").exists(), done.stdout + done.stderr
        return Ended(
            done.stdout + done.stderr,
            int((self.folder / "exchange" / "verdict").read_text()),
            json.loads(told[-1].read_text()),
            (self.state / "lock").exists(),
        )

    def in_force(self) -> dict[str, Any]:
        """Return the content of the release in force, as the ledger tells it."""
        runs = load("roles/release/module_utils/release_runs.py")
        entries = [json.loads(path.read_text()) for path in (self.state / "ledger").iterdir()]
        content: dict[str, Any] = runs.active(sorted(entries, key=runs.number))["content"]
        return content
