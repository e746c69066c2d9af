"""The look at a database of others: which will do, what is said of the rest, and that no password is in any output."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from testinfra.host import Host

SCENARIO = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(600)
SECRETS = ("owner's p@ss", "services' p@ss", "owner%27s", "services%27", "p%40ss")


def name_of(host: Host) -> str:
    name: str = host.ansible.get_variables()["inventory_hostname"]
    return name


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[str, str]]:
    """What was said of each URL, by host."""
    command = ["ansible-playbook", "-vvv", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"]]
    done = subprocess.run([*command, SCENARIO / "external.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert [secret for secret in SECRETS if secret in done.stdout + done.stderr] == []
    folder = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/verdicts.json")}


@pytest.mark.parametrize("case", ["good", "from the file", "the services' role", "the owner for the services"])
def test_a_good_database_of_others_will_do(host: Host, verdicts: dict[str, dict[str, str]], case: str) -> None:
    assert verdicts[name_of(host)][case] == ""


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("not a url", ["Give postgresql://USER:PASSWORD@HOST:PORT/NAME"]),
        ("the owner for nobody", ["There is no role nobody"]),
        (
            "the owner for a stranger",
            ["pg_monitor could not use the tables", "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO pg_monitor"],
        ),
        ("unreachable", ["refused", "See that the server runs"]),
        ("wrong password", ["password authentication failed", "Mend user and password"]),
        ("no such database", ["no pg_hba.conf entry", "Let this host and role in"]),
        (
            "without tls",
            ["does not insist on TLS (sslmode=disable)", "Append ?sslmode=verify-full", "no pg_hba.conf entry"],
        ),
        ("unknown ca", ["certificate", "Name the server's CA certificate"]),
        (
            "several at once",
            [
                "does not insist on TLS (sslmode=prefer)",
                "is too old: 99 or newer is needed",
                "athena_app may not make tables in the schema public",
                "GRANT CREATE ON SCHEMA public TO athena_app",
            ],
        ),
    ],
)
def test_a_bad_one_is_refused_with_the_remedy(
    host: Host, verdicts: dict[str, dict[str, str]], case: str, words: list[str]
) -> None:
    assert [word for word in words if word not in verdicts[name_of(host)][case]] == []
