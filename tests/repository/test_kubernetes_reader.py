"""What the account that Prometheus has on a cluster may do: the objects that the role declares, rendered by Ansible."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT

ROLE = ROOT / "roles/kubernetes_app"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("reader")
    wanted = yaml.safe_load((ROOT / "group_vars/cluster/monitoring.yml").read_text())
    values = {
        "kubernetes_app_name": wanted["athena_reader_name"],
        "kubernetes_app_namespace": wanted["athena_reader_namespace"],
        "kubernetes_app_reads": wanted["athena_read_namespaces"],
    }
    names = [str(ROLE / "templates" / name) for name in ("reader.yaml.j2", "reader_token.yaml.j2")]
    rendered = "{{ " + " ~ '---\n' ~ ".join(f"lookup('ansible.builtin.template', '{name}')" for name in names) + " }}"
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(ROLE / "vars/main.yml")],
        "vars": {"ansible_python_interpreter": sys.executable, **values},
        "tasks": [{"ansible.builtin.copy": {"content": rendered, "dest": str(folder / "objects"), "mode": "0600"}}],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    program = Path(sys.executable).parent / "ansible-playbook"
    done = subprocess.run(
        [program, "--inventory", "localhost,", "--connection", "local", folder / "play.yml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return list(yaml.safe_load_all((folder / "objects").read_text()))


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] == kind]


def test_it_may_list_pods_and_ask_them_in_two_namespaces_and_nothing_else(objects: list[dict[str, Any]]) -> None:
    kinds = sorted(one["kind"] for one in objects)
    assert kinds == ["Role", "Role", "RoleBinding", "RoleBinding", "Secret", "ServiceAccount"]
    assert {one["metadata"]["namespace"] for one in of_kind(objects, "Role")} == {"athena", "athena-admin"}
    for role in of_kind(objects, "Role"):
        assert role["rules"] == [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]},
        ]


def test_its_rights_are_its_own(objects: list[dict[str, Any]]) -> None:
    account = {"kind": "ServiceAccount", "name": "athena-prometheus", "namespace": "athena"}
    for binding in of_kind(objects, "RoleBinding"):
        assert binding["subjects"] == [account]
        assert binding["roleRef"] == {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": "athena-prometheus",
        }


def test_no_pod_gets_its_token_by_itself(objects: list[dict[str, Any]]) -> None:
    [account] = of_kind(objects, "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    [secret] = of_kind(objects, "Secret")
    assert secret["type"] == "kubernetes.io/service-account-token"
    assert secret["metadata"]["annotations"] == {"kubernetes.io/service-account.name": "athena-prometheus"}


def test_a_deployment_does_not_take_it_for_an_application_that_is_gone(objects: list[dict[str, Any]]) -> None:
    assert "app.kubernetes.io/name" not in json.dumps(objects)
