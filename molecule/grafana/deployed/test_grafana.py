"""What the role has left on the host."""

import json

import pytest
from testinfra.host import Host

# Run on the host, which has no curl.
ASK = """
import base64, http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", 3002)
account = base64.b64encode(f"admin:{sys.argv[1]}".encode()).decode()
connection.request("GET", "/api/user", headers={"authorization": f"Basic {account}"})
print(connection.getresponse().status)
"""


def test_it_answers_on_its_host_alone(host: Host) -> None:
    assert host.socket("tcp://127.0.0.1:3002").is_listening
    assert not host.socket("tcp://0.0.0.0:3002").is_listening


def test_it_is_there_after_a_boot(host: Host) -> None:
    assert host.service("grafana-server").is_running
    assert host.service("grafana-server").is_enabled


@pytest.mark.parametrize("name", ["admin-password", "secret-key"])
def test_a_secret_is_long_its_own_and_for_nobody_else(host: Host, name: str) -> None:
    file = host.file(f"/etc/grafana/secrets/{name}")
    assert (file.user, file.group, file.mode) == ("root", "grafana", 0o640)
    assert host.file("/etc/grafana/secrets").mode == 0o750
    assert len(file.content_string.strip()) == 32
    assert host.run("id --groups --name nobody").stdout.split() == ["nogroup"]


@pytest.mark.parametrize(
    ("password", "let_in"), [("$(cat /etc/grafana/secrets/admin-password)", True), ("admin", False)]
)
def test_the_account_has_the_password_that_was_made_here(host: Host, password: str, let_in: bool) -> None:
    asked = host.run(f"python3 -c '{ASK}' \"{password}\"")
    assert asked.stdout.strip() == ("200" if let_in else "401")


def test_it_reads_the_dashboards_of_the_repository_and_no_others(host: Host) -> None:
    folder = "/etc/grafana/dashboards"
    names = host.file(folder).listdir()
    assert sorted(names) == ["database.json", "errors.json", "hosts.json", "models.json", "overview.json"]
    read = host.run(f"runuser -u grafana -- cat {folder}/overview.json")
    assert json.loads(read.stdout)["uid"] == "athena-overview"


def test_no_secret_is_in_a_file_that_is_told_of(host: Host) -> None:
    password = host.file("/etc/grafana/secrets/admin-password").content_string.strip()
    key = host.file("/etc/grafana/secrets/secret-key").content_string.strip()
    assert password != key
    for secret in (password, key):
        found = host.run("grep --recursive --files-with-matches --fixed-strings -e %s /etc /var/log", secret).stdout
        assert all(line.startswith("/etc/grafana/secrets/") for line in found.split())
    assert password not in host.run("journalctl").stdout
