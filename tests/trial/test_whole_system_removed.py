"""The end of an environment, after all other tests: first with a database that others run, then of everything."""

import json
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import yaml
from deployment import Deployment, secrets_in

from athena.proxy.keys import new_key

pytest_plugins = ["the_deployment"]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def external(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """The database is one of others: out of the inventory, its URLs in the environment, the rest in these arguments."""
    for variable, name in (
        ("ATHENA_DATABASE_URL", "postgres-credentials"),
        ("ATHENA_DATABASE_OWNER_URL", "postgres-owner-credentials"),
    ):
        encoded = deployment.trial.kubectl(
            *("get", "secret", name, "--namespace", "athena-admin", "--output", "jsonpath={.data.connection-string}")
        )
        monkeypatch.setenv(variable, b64decode(encoded).decode().partition("?")[0])
    certificate = tmp_path / "ca.crt"
    certificate.write_text(deployment.trial.on("db", "cat", "/etc/postgresql-tls/ca.crt") + "\n")
    settings = {
        "postgresql_mode": "external",
        "athena_database_external_networks": [f"{deployment.trial.variables['athena_database_address']}/32"],
        "athena_database_ca_file": str(certificate),
    }
    (tmp_path / "external.json").write_text(json.dumps(settings))
    hosts = deployment.trial.inventory / "hosts.yml"
    before = hosts.read_text()
    inventory = yaml.safe_load(before)
    del inventory["production"]["children"][deployment.trial.name.replace("-", "_")]["children"]["database"]
    hosts.write_text(yaml.safe_dump(inventory))
    yield ("-e", f"@{tmp_path / 'external.json'}")
    hosts.write_text(before)


class Keyed(NamedTuple):
    """A key of a caller, and the arguments by which the proxy comes to ask for it."""

    key: str
    arguments: tuple[str, str]


@pytest.fixture
def keyed(tmp_path: Path) -> Keyed:
    """The proxy asks its callers for a key."""
    key, line = new_key("a-test")
    (tmp_path / "keys").write_text(f"# Whose keys there are\n{line}\n")
    settings = {"athena_proxy_keys_file": str(tmp_path / "keys"), "athena_proxy_key": key}
    (tmp_path / "keys.json").write_text(json.dumps(settings))
    return Keyed(key, ("-e", f"@{tmp_path / 'keys.json'}"))


def test_a_key_that_is_not_in_the_file_of_keys_is_told_before_anything_is_begun(
    deployment: Deployment, keyed: Keyed, tmp_path: Path
) -> None:
    (tmp_path / "wrong.json").write_text(json.dumps({"athena_proxy_key": "another"}))
    refused = deployment.run("deploy", *keyed.arguments, "-e", f"@{tmp_path / 'wrong.json'}")
    assert refused.code == 1, refused.output
    assert f"athena_proxy_key must be a key that is in {tmp_path / 'keys'}" in refused.output


def test_a_database_that_others_run_is_migrated_its_backups_left_to_them_and_callers_need_a_key(
    deployment: Deployment, external: tuple[str, str], keyed: Keyed
) -> None:
    done = deployment.run("deploy", *external, *keyed.arguments)
    assert done.code == 0, done.output
    assert "run by others, who make its backups as well" in done.output
    release = (deployment.state / "ledger" / f"{deployment.in_force()['id']}.json").read_text()
    assert secrets_in(done.output + release, deployment.state, Path(sys.executable)) == []
    assert deployment.in_force()["backup"] is None
    assert keyed.key not in done.output + release
    asked = {"model": "tiny", "prompt": "Are you there?", "max_tokens": 1}
    for headers, status in (({}, 401), ({"authorization": f"Bearer {keyed.key}"}, 200)):
        answer = httpx.post(f"{deployment.proxy()}/v1/completions", json=asked, headers=headers, timeout=60)
        assert answer.status_code == status, answer.text
    for action in (["backup"], ["restore", "any"], ["rotate", "database-owner"]):
        refused = deployment.run(*action, *external)
        assert refused.code == 1, refused.output
        assert "Others run the database" in refused.output


def test_destroy_with_the_data_leaves_nothing_but_what_others_have(deployment: Deployment) -> None:
    url = deployment.proxy()
    kubectl = deployment.trial.kubectl
    kubectl("create", "secret", "generic", "of-somebody-else", "--namespace", "automation")
    done = deployment.run("destroy", "--yes", "--data")
    assert done.code == 0, done.output
    namespaces = kubectl("get", "namespaces", "--output", "name").split()
    assert [name for name in namespaces if "athena" in name] == []
    secrets = kubectl("get", "secrets", "--namespace", "automation", "--output", "name").split()
    assert secrets == ["secret/of-somebody-else"]
    labels = kubectl("get", "namespace", "automation", "--output", "jsonpath={.metadata.labels}")
    assert json.loads(labels) == {"kubernetes.io/metadata.name": "automation"}
    databases = deployment.trial.on("db", "sudo", "-u", "postgres", "psql", "--list", "--tuples-only", "--no-align")
    assert [line for line in databases.splitlines() if line.startswith("athena")] == []
    assert not deployment.state.exists()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health", timeout=5)
    status = deployment.run("status")
    assert status.code == 1
    assert "Nothing is deployed" in status.output
