"""What a run leaves on this machine: no copy of a key of the cluster."""

import base64
import sys
from pathlib import Path

import pytest
from kubeconfigs import kubeconfig
from playing import run_plays

AWAY = "https://127.0.0.1:9"
KEY = base64.b64encode(b"a key").decode()


def test_a_look_at_the_cluster_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TMPDIR", "ANSIBLE_LOCAL_TEMP"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    seen = tmp_path / "seen"
    ask = "query('kubernetes.core.k8s', kubeconfig=kubeconfig, kind='Node', errors='ignore')"
    look = "query('ansible.builtin.pipe', 'find ' ~ local ~ ' -name tmp* -type f -exec grep -l key {} + | wc -l')"
    task = {
        "ansible.builtin.copy": {
            "content": f"{{{{ [{ask}, {look}] | last | first }}}}",
            "dest": str(seen),
            "mode": "0600",
        }
    }
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}]
    known = {"kubeconfig": kubeconfig(tmp_path, AWAY, KEY), "local": str(tmp_path / "ANSIBLE_LOCAL_TEMP")}
    done = run_plays(tmp_path, plays, variables={**known, "ansible_python_interpreter": sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    assert seen.read_text() != "0"  # it was written, and where Ansible removes it
    left = [path for folder in ("TMPDIR", "ANSIBLE_LOCAL_TEMP") for path in (tmp_path / folder).rglob("*")]
    assert left == []
