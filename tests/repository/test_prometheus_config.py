"""The configuration of Prometheus, as the role writes it."""

import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import run_plays
from serving import Answering, serving

ROLE = ROOT / "roles/prometheus"
ADDRESS = "https://llm.example.internal/health"
PODS = {
    "api_server": "https://192.0.2.10:6443",
    "ca": "a certificate",
    "jobs": {"proxy": {"namespace": "athena", "name": "athena-model-proxy", "port": 8100}},
}


def written(folder: Path, **variables: Any) -> dict[str, dict[str, Any]]:
    """Return the jobs of the configuration by their names."""
    content = yaml.safe_load(written_file(folder, **variables).read_text())
    return {job["job_name"]: job for job in content["scrape_configs"]}


def written_file(folder: Path, **variables: Any) -> Path:
    """Return the file of the configuration, with these variables of the role."""
    file = folder / "prometheus.yml"
    template = {"src": str(ROLE / "templates/prometheus.yml.j2"), "dest": str(file), "mode": "0600"}
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")],
        "vars": {"ansible_python_interpreter": sys.executable},
        "tasks": [{"ansible.builtin.template": template}],
    }
    done = run_plays(folder, [play], variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return file


def test_a_probe_of_a_pod_is_told_from_one_of_an_address_of_the_same_service(tmp_path: Path) -> None:
    probes = [{"service": "proxy", "target": ADDRESS}]
    jobs = written(tmp_path, prometheus_probes=probes, prometheus_kubernetes=PODS)
    assert {"health", "health-proxy", "proxy"} <= set(jobs)
    labels = {
        name: {rule["target_label"] for rule in job.get("relabel_configs", []) if "target_label" in rule}
        for name, job in jobs.items()
    }
    assert labels["health-proxy"] >= {"job", "service", "instance", "pod"}
    assert [name for name, of_it in labels.items() if "pod" in of_it] == ["health-proxy"]
    assert [one["labels"]["service"] for one in jobs["health"]["static_configs"]] == ["proxy"]


def test_a_probe_has_its_address_for_a_name_unless_it_is_given_one(tmp_path: Path) -> None:
    named = {"service": "agent", "target": "http://192.0.2.31:8110/health", "instance": "http://mac-1:8110/health"}
    [job] = written(tmp_path, prometheus_probes=[{"service": "proxy", "target": ADDRESS}, named]).values()
    found = [(one["targets"], one["labels"]["instance"]) for one in job["static_configs"]]
    assert found == [([ADDRESS], ADDRESS), ([named["target"]], named["instance"])]


HOSTS = {
    "mac-1.example.internal:8110": "mac-1.example.internal",
    "http://mac-1.example.internal:8110/health": "mac-1.example.internal",
    "mac-1.example.internal:8889": "mac-1.example.internal",
    "https://llm.example.internal/health": "llm.example.internal",
    "192.0.2.5:8100": "192.0.2.5",
    "[2001:db8::5]:8100": "[2001:db8::5]",
    "athena-model-proxy-7c9d-x2": "athena-model-proxy-7c9d-x2",
    "": "mac-2",
}
"""By what an alert says of its instance, the host that Alertmanager is told; without an instance, as the alert says."""


def test_every_alert_of_a_host_has_its_name_for_alertmanager(tmp_path: Path) -> None:
    told: dict[str, str] = {}

    class Alertmanager(Answering, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"]))):
                told[alert["labels"].get("instance", "")] = alert["labels"]["host"]
            self.answer(200)

    rules = [
        {"alert": f"Number{number}", "expr": "vector(1)", "labels": {"instance": one} if one else {"host": "mac-2"}}
        for number, one in enumerate(HOSTS)
    ]
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/all.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    with serving(Alertmanager) as address:
        file = written_file(
            tmp_path,
            prometheus_alertmanagers=[address],
            prometheus_rules_dir=str(tmp_path / "rules"),
            prometheus_evaluation_interval="1s",
        )
        # It knows of Alertmanager only some seconds after the first alerts.
        arguments = [f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'data'}"]
        arguments += ["--web.listen-address=127.0.0.1:0", "--rules.alert.resend-delay=1s"]
        with (tmp_path / "log").open("wb") as log:
            running = subprocess.Popen(["prometheus", *arguments], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while len(told) < len(HOSTS):
                if running.poll() is not None or time.monotonic() > deadline:
                    pytest.fail((tmp_path / "log").read_text())
                time.sleep(0.1)
        finally:
            running.kill()
            running.wait()
    assert told == HOSTS
