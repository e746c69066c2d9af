"""What is said of a vault that does not open, and that nothing of what is in one is."""

import json
from pathlib import Path

import pytest
from ledger_environment import NAMES, Environment
from loading import load
from playing import run_plays

SHOW = {
    "problem": "release_vault_problem",
    "versions": "release_vault.versions",
}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment with a vault that opens."""
    return Environment(tmp_path)


def enter(environment: Environment, entry: str, show: str) -> tuple[int, str]:
    """Run an entry of the role and show a variable; return the exit code and all that was said, as much as can be."""
    tasks = [
        {"ansible.builtin.import_role": {"name": "release", "tasks_from": entry}},
        {"ansible.builtin.debug": {"msg": f"It has left: {{{{ {SHOW[show]} | to_json }}}}"}},
    ]
    plays = [{"hosts": "cluster", "gather_facts": False, "tasks": tasks}]
    done = run_plays(environment.folder, plays, "-vvv", inventory=environment.folder / "hosts.yml")
    return done.returncode, done.stdout + done.stderr


def left(said: str) -> object:
    """Return the variable that was shown."""
    told: object = json.loads(said.partition("It has left: ")[2].splitlines()[0])
    return told


def break_it(environment: Environment, how: str) -> str:
    """Have the vault not open, and return what is to be said of it."""
    vault, password = environment.state / "vault.yml", environment.state / "vault-password"
    match how:
        case "no password":
            password.unlink()
            return f"{vault} is there, but not its password in {password}. Bring that file back"
        case "another password":
            password.write_text("another\n")
        case _:
            vault.write_text("nonsense\n")
    return f"{vault} does not open with the password in {password}"


def values(environment: Environment) -> list[str]:
    """Return what is in the vault."""
    module = load("roles/release/action_plugins/environment_vault.py")
    kept = module._open(environment.state / "vault.yml", environment.state / "vault-password")
    return [entry["value"] for entry in kept.values()]


@pytest.mark.parametrize("how", ["no password", "another password", "no vault"])
def test_why_it_does_not_open_is_told_by_the_look_and_by_whoever_needs_what_is_in_it(
    environment: Environment, how: str
) -> None:
    words = break_it(environment, how)
    before = {path: path.read_bytes() for path in environment.state.rglob("*") if path.is_file()}
    code, said = enter(environment, "vault_opens", "problem")
    assert code == 0, said
    assert str(left(said)).startswith(words)
    code, said = enter(environment, "vault", "versions")
    assert code == 2, said
    assert words in said
    assert {path: path.read_bytes() for path in environment.state.rglob("*") if path.is_file()} == before


def test_nothing_is_said_of_one_that_opens_nor_of_one_that_is_still_to_be_made(environment: Environment) -> None:
    kept = values(environment)
    code, said = enter(environment, "vault_opens", "problem")
    assert (code, left(said)) == (0, "")
    code, more = enter(environment, "vault", "versions")
    assert (code, left(more)) == (0, dict.fromkeys(NAMES, 1))
    assert [value for value in kept if value in said + more] == []
    for file in ("vault.yml", "vault-password"):
        (environment.state / file).unlink()
    code, said = enter(environment, "vault_opens", "problem")
    assert (code, left(said)) == (0, "")
    assert not (environment.state / "vault.yml").exists()
