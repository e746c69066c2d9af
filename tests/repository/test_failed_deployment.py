"""What a deployment to a cluster does that fails: its own plays, without what they would do to hosts and cluster."""

import json
from pathlib import Path

import pytest
import yaml
from ledger_environment import CA, CONTENT, EGRESS, NAMES, NOTHING, TRACES, Ended, Environment, Tasks
from loading import ROOT
from playing import run_plays

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


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment with a release in force."""
    return Environment(tmp_path)


def deploy(environment: Environment, words: str, **instead: Tasks) -> Ended:
    """Run the plays of a deployment from where it has begun, with these files of tasks in the place of theirs."""
    said, is_told_to, _ = words.partition(" --go-on")
    action, _, operand = said.partition(" ")
    usual = {"image": IMAGE, "database": PASSWORDS, "backup": READY, "activate": ACTIVATE}
    left_out = dict.fromkeys(("withdraw", "tell_release", "show_addresses"), NOTHING)
    entries = ("ledger", "begin", "vault")
    begin = [{"ansible.builtin.include_role": {"name": "release", "tasks_from": entry}} for entry in entries]
    plays = yaml.safe_load((ROOT / "playbooks" / "deploy_cluster.yml").read_text())
    names = [play["name"] for play in plays]
    of_hosts = plays[names.index("Have image and database, side by side") :]
    return environment.run(
        [{"hosts": "cluster", "gather_facts": False, "tasks": begin}, *of_hosts],
        {**left_out, **usual, **instead},
        release_action=action,
        release_operand=operand,
        release_go_on="yes" if is_told_to else "no",
    )


@pytest.mark.parametrize("gone_in", ["database", "backup"])
def test_a_host_that_goes_away_has_nothing_more_done_there_and_the_run_is_taken_back(
    environment: Environment, gone_in: str
) -> None:
    ended = deploy(environment, "deploy", **{gone_in: AWAY})
    assert "Done on a host that is away" not in ended.said
    assert "db: the database host is out of reach" in ended.said
    assert (ended.verdict, ended.last["outcome"], ended.locked) == (3, "failed, taken back", False)
    assert ended.in_force_again is None  # nothing was touched


def test_what_cannot_be_removed_in_the_end_is_told_and_takes_nothing_back(environment: Environment) -> None:
    """There is no cluster of which something could be removed."""
    ended = deploy(environment, "deploy", activate=NOTHING)
    assert "Warning: not all that is no longer used was removed (" in ended.said
    assert "Release r2 is in force." in ended.said
    assert (ended.verdict, ended.last["id"], ended.last["outcome"], ended.locked) == (0, "r2", "in force", False)


def test_a_rotation_that_never_reached_the_database_is_not_called_taken_back(environment: Environment) -> None:
    ended = deploy(environment, "rotate", database=AWAY)
    assert "The vault has new values of database-owner, database-application, and" in ended.said
    assert "./deploy.sh ENVIRONMENT deploy --go-on" in ended.said
    assert (ended.verdict, ended.last["id"], ended.locked) == (4, "r1", True)
    assert ended.in_force_again is None


def test_a_rotation_that_failed_once_the_database_had_its_passwords_brings_them_to_the_services(
    environment: Environment,
) -> None:
    ended = deploy(environment, "rotate", database=[*PASSWORDS, *FAILURE])
    assert (ended.verdict, ended.last["outcome"], ended.locked) == (3, "failed, taken back", False)
    assert ended.in_force_again
    assert ended.in_force_again["image"] == "an-image"
    assert ended.in_force_again["secrets"] == dict.fromkeys(NAMES, 2)
    assert environment.in_force()["secrets"] == dict.fromkeys(NAMES, 2)
    again = deploy(environment, "deploy", image=FAILURE)
    assert (again.verdict, again.in_force_again) == (3, None)  # nothing waits any more


def test_a_deployment_after_a_rotation_that_failed_is_judged_by_the_vault_and_not_by_its_name(
    environment: Environment,
) -> None:
    assert deploy(environment, "rotate", database=AWAY).verdict == 4
    refused = deploy(environment, "deploy")
    assert (refused.verdict, refused.last["id"], refused.in_force_again, refused.locked) == (5, "r1", None, True)
    assert "the 'rotate' of" in refused.said
    assert "`./deploy.sh ENVIRONMENT deploy --go-on` goes on from there" in refused.said
    still_away = deploy(environment, "deploy --go-on", image=FAILURE, database=AWAY)
    assert (still_away.verdict, still_away.in_force_again, still_away.locked) == (4, None, True)
    ended = deploy(environment, "deploy --go-on", backup=FAILURE)
    assert (ended.verdict, ended.locked) == (3, False)
    assert ended.in_force_again
    assert ended.in_force_again["secrets"] == dict.fromkeys(NAMES, 2)
    assert [run["action"] for run in ended.last["took_over"]] == ["rotate", "deploy"]


def test_a_secret_that_the_database_does_not_know_reaches_the_services_though_the_rotation_failed(
    environment: Environment,
) -> None:
    ended = deploy(environment, "rotate jwt-secret", image=FAILURE, database=AWAY)
    assert (ended.verdict, ended.locked) == (3, False)
    assert ended.in_force_again
    assert ended.in_force_again["secrets"] == {**dict.fromkeys(NAMES, 1), "jwt-secret": 2}
    assert environment.in_force()["secrets"]["jwt-secret"] == 2


def test_the_release_before_comes_back_with_the_address_and_the_certificate_that_the_database_has_now(
    environment: Environment,
) -> None:
    ended = deploy(environment, "deploy", database=[*PASSWORDS, *ANOTHER_CA])
    assert (ended.verdict, ended.last["outcome"]) == (3, "failed, taken back")
    assert "Warning: not all that is no longer used was removed (" in ended.said  # there is no cluster
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
    ended = deploy(environment, "deploy")
    assert ended.in_force_again
    assert ended.in_force_again["ca"] == "old"


@pytest.mark.parametrize("rotated", ["", "jwt-secret", "database-owner"])
def test_a_rollback_is_refused_while_the_vault_has_passwords_that_the_database_may_not_know(
    environment: Environment, rotated: str
) -> None:
    if rotated:
        deploy(environment, f"rotate {rotated}", image=FAILURE, database=AWAY)
    entries = ("in_force", "vault")
    look = [{"ansible.builtin.include_role": {"name": "release", "tasks_from": entry}} for entry in entries]
    look.append({"ansible.builtin.debug": {"msg": "Against it: {{ athena_passwords_problem | to_json }}"}})
    plays = [{"hosts": "cluster", "gather_facts": False, "tasks": look}]
    done = run_plays(environment.folder, plays, inventory=environment.folder / "hosts.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.partition("Against it: ")[2].splitlines()[0])
    if rotated == "database-owner":
        assert told.startswith("The vault has newer values of database-owner than the release in force")
    else:
        assert told == ""
