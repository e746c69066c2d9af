"""The collector on the nodes of a cluster: what is applied there, rendered by Ansible."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT

ROLE = ROOT / "roles/log_collector"
IMAGE = f"registry.example.internal/otelcol@sha256:{'0' * 64}"
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    """Return the objects by their kind; there is one of each."""
    folder: Path = tmp_path_factory.mktemp("manifests")
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")],
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": [
            {
                "ansible.builtin.template": {
                    "src": str(ROLE / "templates/kubernetes.yaml.j2"),
                    "dest": str(folder / "manifests.yaml"),
                    "mode": "0600",
                }
            }
        ],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    given = {
        "log_collector_environment": "test",
        "log_collector_loki_url": "http://loki.example.internal:3100",
        "log_collector_image": IMAGE,
        "log_collector_metrics_networks": ["192.0.2.40/32"],
        "log_collector_metrics_reader": {"namespace": "athena", "name": "athena-prometheus"},
        "log_collector_traces_endpoint": "http://tempo.example.internal:3200",
    }
    (folder / "given.yml").write_text(yaml.safe_dump(given))
    done = subprocess.run(
        [
            "ansible-playbook",
            "--inventory",
            "localhost,",
            "--connection",
            "local",
            "--extra-vars",
            "@given.yml",
            "play.yml",
        ],
        cwd=folder,
        env={
            **os.environ,
            "ANSIBLE_FILTER_PLUGINS": str(ROLE / "filter_plugins"),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = list(yaml.safe_load_all((folder / "manifests.yaml").read_text()))
    by_kind = {one["kind"]: one for one in found}
    assert len(by_kind) == len(found)
    return by_kind


@pytest.fixture
def container(manifests: dict[str, Manifest]) -> Manifest:
    [one] = manifests["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    return dict(one)


def test_it_may_look_at_pods_and_do_nothing_else(manifests: dict[str, Manifest]) -> None:
    assert manifests["ClusterRole"]["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]
    [subject] = manifests["ClusterRoleBinding"]["subjects"]
    account = manifests["ServiceAccount"]["metadata"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])


def test_it_is_root_without_any_right_of_roots_and_writes_its_queue_alone(
    manifests: dict[str, Manifest], container: Manifest
) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    pod = manifests["DaemonSet"]["spec"]["template"]["spec"]
    writes = [mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    folders = {one["name"]: one["hostPath"]["path"] for one in pod["volumes"] if "hostPath" in one}
    assert writes == ["queue"]
    assert folders == {"logs": "/var/log/pods", "queue": "/var/lib/athena-log-collector"}
    assert container["image"] == IMAGE
    assert container["resources"]["limits"] == {"memory": "512Mi"}


def test_it_reaches_names_the_api_server_loki_and_who_takes_traces(manifests: dict[str, Manifest]) -> None:
    spec = manifests["NetworkPolicy"]["spec"]
    assert {port["port"] for rule in spec["egress"] for port in rule["ports"]} == {53, 443, 6443, 3100, 3200}


def test_pods_that_it_reads_the_lines_of_bring_it_their_traces_and_its_metrics_are_asked_for_from_outside(
    manifests: dict[str, Manifest],
) -> None:
    metrics, traces = manifests["NetworkPolicy"]["spec"]["ingress"]
    assert metrics == {
        "ports": [{"port": "metrics", "protocol": "TCP"}],
        "from": [{"ipBlock": {"cidr": "192.0.2.40/32"}}],
    }
    namespaces = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["athena", "athena-admin"]}
    assert traces == {
        "ports": [{"port": "traces", "protocol": "TCP"}],
        "from": [{"namespaceSelector": {"matchExpressions": [namespaces]}}],
    }


def test_a_pod_brings_its_traces_to_the_collector_of_its_own_node(
    manifests: dict[str, Manifest], container: Manifest
) -> None:
    service = manifests["Service"]
    labels = manifests["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["internalTrafficPolicy"] == "Local"
    assert service["spec"]["selector"].items() <= labels.items()
    [port] = service["spec"]["ports"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert (port["port"], ports[port["targetPort"]]) == (4318, 4318)
    config = yaml.safe_load(manifests["ConfigMap"]["data"]["config.yaml"])
    assert config["receivers"]["otlp"]["protocols"]["http"]["endpoint"] == "0.0.0.0:4318"
    assert config["service"]["pipelines"]["traces"]["exporters"] == ["otlp_http/traces"]


def test_prometheus_may_ask_collectors_through_the_api_server_and_do_nothing_else(
    manifests: dict[str, Manifest],
) -> None:
    assert manifests["Role"]["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]},
    ]
    binding = manifests["RoleBinding"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "namespace": "athena", "name": "athena-prometheus"}]
    assert binding["roleRef"]["name"] == manifests["Role"]["metadata"]["name"]
    assert binding["metadata"]["namespace"] == manifests["DaemonSet"]["metadata"]["namespace"]


def test_its_configuration_is_the_one_that_it_is_started_with(
    manifests: dict[str, Manifest], container: Manifest
) -> None:
    pod = manifests["DaemonSet"]["spec"]["template"]["spec"]
    [volume] = [one for one in pod["volumes"] if "configMap" in one]
    files = manifests["ConfigMap"]
    assert volume["configMap"]["name"] == files["metadata"]["name"]
    config = yaml.safe_load(files["data"]["config.yaml"])
    assert config["receivers"]["file_log/pods"]["include"] == [
        f"/var/log/pods/{namespace}_*/*/*.log{aside}"
        for namespace in ("athena", "athena-admin")
        for aside in ("", ".????????-??????", ".????????-??????.gz")
    ]
    assert config["receivers"]["file_log/pods"]["resource"] == {"environment": "test", "host": "${env:NODE_NAME}"}
    assert [variable["name"] for variable in container["env"]] == ["NODE_NAME"]
    assert config["exporters"]["otlp_http/loki"]["endpoint"] == "http://loki.example.internal:3100/otlp"
    [queue] = [mount for mount in container["volumeMounts"] if mount["name"] == "queue"]
    assert config["extensions"]["file_storage"]["directory"] == queue["mountPath"]
    assert config["service"]["pipelines"]["logs"]["processors"] == ["memory_limiter", "k8s_attributes"]
