"""Plays of a test's own, run by Ansible as the project is set up."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from loading import ROOT

ANSIBLE = Path(sys.executable).parent / "ansible"
PLAYBOOK = ANSIBLE.with_name("ansible-playbook")
LONGEST_SECONDS = 300


def run_plays(
    folder: Path,
    plays: Sequence[Mapping[str, Any]],
    *arguments: str,
    inventory: Path | str = "localhost,",
    variables: Mapping[str, Any] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Write plays to the folder and run them, with more arguments and variables; the caller judges how they ended."""
    file = folder / "play.yml"
    file.write_text(yaml.safe_dump(list(plays), sort_keys=False))
    return subprocess.run(
        [PLAYBOOK, "--inventory", inventory, "--extra-vars", json.dumps(variables or {}), *arguments, file],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_SECONDS,
    )


def local_play(*tasks: dict[str, Any], **variables: Any) -> dict[str, Any]:
    """Return a play on this machine with these variables."""
    return {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}", **variables},
        "tasks": list(tasks),
    }


def evaluated(environment: str, group: str, expression: str, **variables: Any) -> Any:
    """Return what an expression is in an environment with these variables besides."""
    command = [str(ANSIBLE), "--inventory", f"inventory/{environment}", "--playbook-dir", "playbooks", group]
    command += [
        "--module-name",
        "debug",
        "--args",
        f"msg={{{{ {expression} }}}}",
        "--extra-vars",
        json.dumps(variables),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.partition("=>")[2])["msg"]
