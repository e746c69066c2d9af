"""What a deployment to a cluster does that fails: its own plays, with what they would do to hosts and cluster left out.

The release in force is of version 1 of every secret, and knows the database by the certificate `old`.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
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
    "applications": {"admin": {"port": 8080, "files": {CA: "old"}, "egress_to": [OLD_EGRESS, TRACES]}},
    "database_egress": [OLD_EGRESS],
    "secrets": dict.fromkeys(NAMES, 1),
}
Tasks = list[dict[str, Any]]

AWAY: Tasks = [
    {
        "name": "Reach the host",
        "ansible.builtin.ping": None,
        "vars": {"ansible_connection": "ssh", "ansible_port": 9, "ansible_ssh_common_args": "-o BatchMode=yes"},
    },
    {"ansible.builtin.debug": {"msg": "Done on a host that is away"}},
]
PASSWORDS: Tasks = [{"ansible.builtin.set_fact": {"postgresql_passwords_are_begun": True}}]
ANOTHER_CA: Tasks = [{"ansible.builtin.set_fact": {"postgresql_ca_certificate": "new"}}]
READY: Tasks = [{"ansible.builtin.set_fact": {"database_is_ready": True}}]
FAILURE: Tasks = [{"ansible.builtin.fail": {"msg": "of a test"}}]
IMAGE: Tasks = [{"ansible.builtin.set_fact": {"athena_image": "another-image", "athena_needs_backup": True}}]
# The way back takes the release up first.
ACTIVATE: Tasks = [
    {"ansible.builtin.set_fact": {"athena_cluster_is_touched": True}},
    {"ansible.builtin.fail": {"msg": "of a test"}, "when": "athena_taken_up is not defined"},
    {
        "ansible.builtin.debug": {
            "msg": "In force: {{ {'image': athena_image, 'ca': athena_database_ca, 'secrets': release_vault.versions,"
            " 'admin': athena_released.applications.admin} | to_json }}"
        }
    },
]
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
        (self.state / "ledger" / "r1.json").write_text(json.dumps({**entry, **times, "content": CONTENT}))

    def run(self, action: str, operand: str = "", **instead: Tasks) -> Ended:
        """Run the plays of a deployment, with these files of tasks in the place of theirs."""
        copytree(ROOT / "playbooks" / "tasks", self.folder / "tasks", dirs_exist_ok=True)
        usual = {"image": IMAGE, "database": PASSWORDS, "backup": READY, "activate": ACTIVATE}
        left_out = dict.fromkeys(("withdraw", "tell_release", "show_addresses"), NOTHING)
        for name, tasks in {**left_out, **usual, **instead}.items():
            (self.folder / "tasks" / "cluster" / f"{name}.yml").write_text(yaml.safe_dump(tasks))
        entries = ("ledger", "begin", "vault")
        begin = [{"ansible.builtin.include_role": {"name": "release", "tasks_from": entry}} for entry in entries]
        plays = yaml.safe_load((ROOT / "playbooks" / "deploy_cluster.yml").read_text())
        names = [play["name"] for play in plays]
        of_hosts = plays[names.index("Have image and database, side by side") :]
        done = run_plays(
            self.folder,
            [{"hosts": "cluster", "gather_facts": False, "tasks": begin}, *of_hosts],
            inventory=self.folder / "hosts.yml",
            variables={"release_action": action, "release_operand": operand},
        )
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


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment whose vault has version 1 of every secret."""
    made = Environment(tmp_path)
    vault = load("roles/release/action_plugins/environment_vault.py")
    password = made.state / "vault-password"
    password.write_text("of a test\n")
    first = json.dumps(vault.renewed({}, list(NAMES), {}, []))
    (made.state / "vault.yml").write_bytes(vault._vault(password).encrypt(first))
    return made


@pytest.mark.parametrize("gone_in", ["database", "backup"])
def test_a_host_that_goes_away_has_nothing_more_done_there_and_the_run_is_taken_back(
    environment: Environment, gone_in: str
) -> None:
    ended = environment.run("deploy", **{gone_in: AWAY})
    assert "Done on a host that is away" not in ended.said
    assert "db: the database host is out of reach" in ended.said
    assert (ended.verdict, ended.last["outcome"], ended.locked) == (3, "failed, taken back", False)
    assert ended.in_force_again is None  # nothing was touched


def test_a_rotation_that_never_reached_the_database_is_not_called_taken_back(environment: Environment) -> None:
    ended = environment.run("rotate", database=AWAY)
    assert "The vault has new values of database-owner, database-application, and" in ended.said
    assert "./deploy.sh ENVIRONMENT deploy" in ended.said
    assert (ended.verdict, ended.last["id"], ended.locked) == (4, "r1", True)
    assert ended.in_force_again is None


def test_a_rotation_that_failed_once_the_database_had_its_passwords_brings_them_to_the_services(
    environment: Environment,
) -> None:
    ended = environment.run("rotate", database=[*PASSWORDS, *FAILURE])
    assert (ended.verdict, ended.last["outcome"], ended.locked) == (3, "failed, taken back", False)
    assert ended.in_force_again
    assert ended.in_force_again["image"] == "an-image"
    assert ended.in_force_again["secrets"] == dict.fromkeys(NAMES, 2)
    assert environment.in_force()["secrets"] == dict.fromkeys(NAMES, 2)
    again = environment.run("deploy", image=FAILURE)
    assert (again.verdict, again.in_force_again) == (3, None)  # nothing waits any more


def test_a_deployment_after_a_rotation_that_failed_is_judged_by_the_vault_and_not_by_its_name(
    environment: Environment,
) -> None:
    assert environment.run("rotate", database=AWAY).verdict == 4
    still_away = environment.run("deploy", image=FAILURE, database=AWAY)
    assert (still_away.verdict, still_away.in_force_again, still_away.locked) == (4, None, True)
    ended = environment.run("deploy", backup=FAILURE)
    assert (ended.verdict, ended.locked) == (3, False)
    assert ended.in_force_again
    assert ended.in_force_again["secrets"] == dict.fromkeys(NAMES, 2)
    assert [run["action"] for run in ended.last["took_over"]] == ["rotate", "deploy"]


def test_a_secret_that_the_database_does_not_know_reaches_the_services_though_the_rotation_failed(
    environment: Environment,
) -> None:
    ended = environment.run("rotate", "jwt-secret", image=FAILURE, database=AWAY)
    assert (ended.verdict, ended.locked) == (3, False)
    assert ended.in_force_again
    assert ended.in_force_again["secrets"] == {**dict.fromkeys(NAMES, 1), "jwt-secret": 2}
    assert environment.in_force()["secrets"]["jwt-secret"] == 2


def test_the_release_before_comes_back_with_the_address_and_the_certificate_that_the_database_has_now(
    environment: Environment,
) -> None:
    ended = environment.run("deploy", database=[*PASSWORDS, *ANOTHER_CA])
    assert (ended.verdict, ended.last["outcome"]) == (3, "failed, taken back")
    assert ended.in_force_again
    assert ended.in_force_again["ca"] == "new"
    assert ended.in_force_again["admin"] == {"port": 8080, "files": {CA: "new"}, "egress_to": [EGRESS, TRACES]}
    content = environment.in_force()
    assert content["applications"]["admin"] == ended.in_force_again["admin"]
    assert (content["database_egress"], content["images"]) == ([EGRESS], CONTENT["images"])
    assert content["secrets"] == CONTENT["secrets"]


def test_where_the_host_has_no_word_of_its_certificate_that_of_the_release_in_force_holds(
    environment: Environment,
) -> None:
    ended = environment.run("deploy")
    assert ended.in_force_again
    assert ended.in_force_again["ca"] == "old"
