"""An environment on a cluster of which nothing answers, neither cluster nor hosts: what deploy.sh says of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)

NAME = "away"
HOSTS = """
away:
  children:
    control_plane:
      children:
        cluster:
          hosts:
            localhost:
              ansible_connection: local
              ansible_python_interpreter: "{{ ansible_playbook_python }}"
    database:
      hosts:
        database.example.internal: {ansible_host: 127.0.0.1, ansible_port: 9, ansible_ssh_common_args: -o BatchMode=yes}
    engines: # which a deployment asks at their addresses alone
      hosts:
        mac.example.internal: {ansible_host: 127.0.0.1, ansible_port: 9}
"""
SECRETS = ("admin-token", "jwt-secret", "database-owner", "database-application", "redis-password")
IMAGE = f"registry.example.internal/athena@sha256:{'0' * 64}"
CLUSTER = "The cluster of /nowhere does not answer"
HOST = "database.example.internal: is out of reach"


class Away:
    """The environment: an inventory in the copy of the repository, and what an earlier deployment recorded."""

    def __init__(self, clone: Path, state: Path) -> None:
        self.clone, self.state = clone, state
        variables = {
            "athena_state_dir": str(state),
            "athena_kubeconfig": "/nowhere",
            "athena_registry_push": "127.0.0.1:9",
            "athena_registry_pull": "registry.example.internal",
            "athena_redis_image": IMAGE,
            "athena_ollama_addresses": ["127.0.0.1"],
            "athena_database_address": "192.0.2.20",
            "athena_database_networks": ["192.0.2.0/24"],
            "athena_backends": [
                {"model_name": "tiny", "backend_type": "ollama", "endpoint_url": "http://127.0.0.1:9"},
            ],
        }
        inventory = clone / "inventory" / NAME
        (inventory / "group_vars").mkdir(parents=True)
        (inventory / "hosts.yml").write_text(HOSTS)
        (inventory / "group_vars" / f"{NAME}.json").write_text(json.dumps(variables))

    def is_deployed(self) -> None:
        """Have a release in force, as far as the ledger knows."""
        application = {"name": "athena-admin-backend", "namespace": "athena-admin", "port": 8080, "files": {}}
        certificate = {"/etc/athena/database-ca.crt": "none"}
        content = {
            "version": "1",
            "images": {"service": IMAGE, "redis": IMAGE},
            "schema": "93bea4659785",
            "schema_stays_ahead": False,
            "applications": {"admin": {**application, "files": certificate}},
            "external_services": [],
            "replicas": {"admin": 2},
            "scaled": {},
            "backends": [{"model_name": "tiny", "backend_type": "ollama", "endpoint_url": "http://127.0.0.1:9"}],
            "secrets": {name: 1 if name == "jwt-secret" else 2 for name in SECRETS},
        }
        release = {"id": "r1", "outcome": "in force", "until": "2026-01-01T00:00:00+00:00", "content": content}
        (self.state / "ledger").mkdir(parents=True)
        (self.state / ".athena-environment").touch()
        (self.state / "ledger" / "r1.json").write_text(json.dumps({**release, "restores": None, "replaces": None}))

    def run(self, action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.clone / "deploy.sh", NAME, action, *arguments],
            env={**os.environ, "ATHENA_DATABASE_URL": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def files(self) -> dict[str, str]:
        """Return what there is of it."""
        return {str(path): path.read_text() for path in self.state.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def away(folder: Path) -> Away:
    return Away(folder / "clone", folder / "away")


def test_a_deployment_tells_all_that_is_away_at_once_and_begins_nothing(away: Away) -> None:
    done = away.run("deploy")
    assert done.returncode == 1, done.stdout + done.stderr
    for words in (
        CLUSTER,
        HOST,
        f".venv/bin/ansible -i inventory/{NAME} database.example.internal -m ping",
        "The registry 127.0.0.1:9 does not answer",
        "Ollama at 127.0.0.1:11434 does not answer",
        "Ollama at 127.0.0.1:9 does not answer",
        "athena_backends[0] (tiny): no rule of the network lets pods reach 127.0.0.1 at port 9",
    ):
        assert words in done.stderr
    assert "mac.example.internal" not in done.stdout + done.stderr
    assert not away.state.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["deploy"], [CLUSTER, "holds files that are not of a deployment", "athena_state_dir=FOLDER"]),
        (["destroy", "--yes", "--data"], ["is not of a deployment"]),
    ],
    ids=["deploy", "destroy"],
)
def test_a_folder_with_files_of_others_is_refused_and_left_alone(
    away: Away, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "diary").touch()
    done = away.run(*arguments, "-e", f"athena_state_dir={tmp_path}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert [word for word in words if word not in done.stderr] == []
    assert [path.name for path in tmp_path.iterdir()] == ["diary"]


def test_a_program_is_told_each_problem_by_itself_and_nothing_else(away: Away) -> None:
    done = away.run("deploy", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert (said["exit_code"], said["outcome"]) == (1, "failed, nothing changed")
    assert (said["release"], said["recorded"], said["steps"]) == (None, None, [])
    assert len(said["problems"]) >= 5
    for words in (CLUSTER, HOST, "Ollama at 127.0.0.1:9"):
        assert [problem for problem in said["problems"] if problem.startswith(words)] != []
    assert CLUSTER in done.stderr


@pytest.mark.parametrize("action", ["plan", "verify", "status", "backup", "destroy"])
def test_a_program_is_told_of_whatever_refuses_or_fails(away: Away, action: str) -> None:
    done = away.run(action, "--json", *(["--yes"] if action == "destroy" else []))
    assert done.returncode == 1, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert (said["exit_code"], said["outcome"], said["release"]) == (1, "failed, nothing changed", None)
    assert len(said["problems"]) > 0
    assert not away.state.exists()


def test_what_says_nothing_of_its_own_tells_a_program_that_it_is_done(away: Away) -> None:
    done = away.run("unlock", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert (said["exit_code"], said["outcome"], said["problems"]) == (0, "done", [])
    assert "There was no lock." in done.stderr
    assert json.loads(away.run("releases", "--json").stdout) == []


def test_hosts_whose_agents_are_to_report_want_the_cluster_or_a_deployment_before(away: Away) -> None:
    done = away.run("fleet", "-e", "athena_agent_admin_url=http://admin.example.internal:8080")
    assert done.returncode == 1, done.stdout + done.stderr
    assert CLUSTER in done.stderr
    assert f"leave that empty until `./deploy.sh {NAME} deploy` has gone well, and run `fleet` once more" in done.stderr
    assert not (away.state / "vault.yml").exists()
    without = away.run("fleet")
    assert without.returncode == 1, without.stdout + without.stderr
    assert "athena_models is empty" in without.stderr
    assert CLUSTER not in without.stderr
    assert not away.state.exists()


def test_status_prints_its_screen_with_what_is_away_and_ends_with_8(away: Away) -> None:
    away.is_deployed()
    done = away.run("status")
    assert done.returncode == 8, done.stdout + done.stderr
    assert done.stdout.startswith("Release r1, 1, since")
    for words in (CLUSTER, HOST, "Ollama at 127.0.0.1:9 does not answer", f"{IMAGE} is not in the registry"):
        assert words in done.stdout
    assert "mac.example.internal" not in done.stdout, "an engine may be well on a host that does not let us in"


def test_status_tells_which_secrets_the_vault_has_newer_values_of_than_the_release(away: Away) -> None:
    password, vault = away.state / "vault-password", away.state / "vault.yml"
    password.write_text("of a test\n")
    vault.write_text(json.dumps({name: {"value": name, "version": 2} for name in SECRETS}))
    encrypt = (Path(sys.executable).with_name("ansible-vault"), "encrypt", "--vault-password-file", password, vault)
    subprocess.run(encrypt, check=True, capture_output=True)
    before = away.files()
    told = away.run("status")
    assert told.returncode == 8, told.stdout + told.stderr
    assert "the vault has newer values of jwt-secret than the release" in told.stdout
    assert away.files() == before
    password.write_text("another\n")
    before = away.files()
    refused = away.run("deploy")
    assert refused.returncode == 1, refused.stdout + refused.stderr
    for words in (f"{vault} does not open with the password in {password}", CLUSTER):
        assert words in refused.stderr
    assert away.files() == before
    vault.unlink()


def test_status_tells_programs_what_is_away(away: Away) -> None:
    done = away.run("status", "--json")
    assert done.returncode == 8, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["cluster"]["answers"] is False
    assert said["hosts"] == {"database.example.internal": False}
    assert (said["services"], said["schema"]) == ({}, "unknown")
    assert [engine["error"] != "" for engine in said["engines"]] == [True]
    for words in (CLUSTER, HOST):
        assert any(problem.startswith(words) for problem in said["problems"]), said["problems"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["destroy", "--yes"],
        ["destroy", "--yes", "--data"],
        ["verify"],
        ["scale", "admin", "1"],
        ["update", "admin", "r1"],
        ["logs"],
        ["restore", "x"],
    ],
    ids=" ".join,
)
def test_what_needs_the_cluster_says_that_it_is_away_and_changes_nothing(away: Away, arguments: list[str]) -> None:
    before = away.files()
    done = away.run(*arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert CLUSTER in done.stderr
    assert "athena_kubeconfig" in done.stderr
    assert (HOST in done.stderr) == (arguments[-1] in ("--data", "x"))
    assert away.files() == before
