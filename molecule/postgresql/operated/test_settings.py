"""New values for a running database. On one host: a play takes long."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

NAME = f"athena-postgresql-debian13-{os.environ.get('ATHENA_TEST_RUN', 'hand')}"
testinfra_hosts = [f"ansible://{NAME}"]
pytestmark = pytest.mark.timeout(600)


def play(**values: Any) -> subprocess.CompletedProcess[str]:
    playbook = Path(__file__).parents[1] / "database.yml"
    command = ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], "--limit", NAME]
    return subprocess.run(
        [*command, "--extra-vars", json.dumps(values), playbook], capture_output=True, text=True, check=False
    )


def ask(host: Host, query: str) -> str:
    output: str = host.check_output("runuser -u postgres -- psql --no-align --tuples-only --command %s athena", query)
    return output


def test_a_setting_and_a_certificate_are_changed_without_a_restart(host: Host) -> None:
    began = ask(host, "SELECT pg_postmaster_start_time()")
    host.check_output(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=given.example "
        "-keyout /root/given.key -out /root/given.crt"
    )
    done = play(
        postgresql_settings={"log_min_duration_statement": "2s"},
        postgresql_tls_certificate="/root/given.crt",
        postgresql_tls_key="/root/given.key",
        postgresql_tls_ca="/root/given.crt",
    )
    assert done.returncode == 0, done.stdout
    assert ask(host, "SHOW log_min_duration_statement") == "2s"
    shown = host.run("openssl s_client -starttls postgres -connect 127.0.0.1:5432 </dev/null")
    assert "subject=CN=given.example" in shown.stdout.replace(" ", "")
    assert ask(host, "SELECT pg_postmaster_start_time()") == began
