"""The token of the agents is there before anything is deployed: `fleet` makes the secret that it follows from."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import run_plays

SAY = {"ansible.builtin.copy": {"content": "{{ athena_agent_token }}", "dest": "{{ said_in }}", "mode": "0600"}}
FLEET = ROOT / "playbooks/tasks/fleet"


def run(folder: Path, group: str, *tasks: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run tasks on a control plane of the group, beside which there is one host with engines."""
    control_plane = f"children: {{{group}: {{hosts: {{localhost: {{ansible_connection: local}}}}}}}}"
    hosts = f"all: {{children: {{control_plane: {{{control_plane}}}, engines: {{hosts: {{mac-1: }}}}}}}}\n"
    (folder / "hosts.yml").write_text(hosts)
    variables = {
        **yaml.safe_load((ROOT / "inventory/dev/group_vars/dev/main.yml").read_text()),
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "athena_state_dir": str(folder / "state"),
        "release_state_dir": str(folder / "state"),
        "release_action": "fleet",
        "release_exchange": str(folder),
        "release_operand": "",
        "release_steps": {"engines": "Hosts with engines"},
        "athena_models": [{"name": "tiny", "engine": "mlx", "port": 8090, "source": {"random": True}}],
        "athena_agent_admin_url": "http://admin.example.internal:8080",
        "said_in": str(folder / "said"),
    }
    play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
    return run_plays(folder, [play], inventory=folder / "hosts.yml", variables=variables)


def told(folder: Path, group: str, task: dict[str, Any]) -> str:
    """Run a task, and return the token that the hosts are told then."""
    ran = run(folder, group, task, SAY)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    token = (folder / "said").read_text()
    assert len(token) == 64
    assert token not in ran.stdout + ran.stderr
    return token


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    (tmp_path / "group_vars").symlink_to(ROOT / "group_vars")
    return tmp_path


def test_on_one_machine_it_follows_from_the_secret_that_deploy_will_find(folder: Path) -> None:
    from athena.auth.tokens import agents_token  # noqa: PLC0415  # of the service

    have = {"ansible.builtin.import_tasks": str(FLEET / "secrets_supervised.yml")}
    token = told(folder, "supervised", have)
    assert token == agents_token((folder / "state/secrets/admin-token").read_text().strip())
    assert told(folder, "supervised", have) == token


def test_beside_a_cluster_it_follows_from_the_vault(folder: Path) -> None:
    deploys = {"ansible.builtin.import_role": {"name": "release", "tasks_from": "vault"}}
    made = told(folder, "cluster", deploys)
    have = {"ansible.builtin.import_tasks": str(FLEET / "secrets_cluster.yml")}
    assert told(folder, "cluster", have) == made


def test_a_fleet_whose_agents_cannot_have_it_is_left_as_it_was_and_nothing_is_locked(folder: Path) -> None:
    (folder / "state" / ".athena-environment").touch()
    (folder / "state" / "secrets").write_text("no folder")
    ran = run(folder, "supervised", {"ansible.builtin.import_tasks": str(FLEET / "begin.yml")})
    assert ran.returncode != 0
    assert "The agents have no token for athena_agent_admin_url: " in ran.stderr
    assert "Nothing was changed." in ran.stderr
    assert (folder / "verdict").read_text().strip() == "1"
    assert not (folder / "state" / "lock" / "journal.json").exists()
    assert "Hosts with engines" not in ran.stdout
