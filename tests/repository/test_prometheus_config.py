"""The configuration of Prometheus, as the role writes it."""

import sys
from pathlib import Path
from typing import Any

import yaml
from loading import ROOT
from playing import run_plays

ROLE = ROOT / "roles/prometheus"
ADDRESS = "https://llm.example.internal/health"
PODS = {
    "api_server": "https://192.0.2.10:6443",
    "ca": "a certificate",
    "jobs": {"proxy": {"namespace": "athena", "name": "athena-model-proxy", "port": 8100}},
}


def written(folder: Path, **variables: Any) -> dict[str, dict[str, Any]]:
    """Return the jobs of the configuration by their names."""
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
    return {job["job_name"]: job for job in yaml.safe_load(file.read_text())["scrape_configs"]}


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
