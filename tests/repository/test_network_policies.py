"""Who reaches whom on a cluster, by the network policies that a deployment of production would apply."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import run_plays

TASKS = ROOT / "playbooks/tasks/cluster"
TEMPLATE = ROOT / "roles/kubernetes_app/templates/network_policy.yaml.j2"
GIVEN = {
    "athena_client_networks": ["203.0.113.0/24"],
    "athena_admin_networks": ["198.51.100.0/25"],
    "athena_admin_clients": [{"namespace": "automation", "pods": {"job": "a-script"}}],
    "athena_api_server_networks": ["192.0.2.1/32"],
    "athena_mlx_addresses": ["192.0.2.31"],
    "athena_ollama_addresses": ["192.0.2.32"],
    "athena_database_address": "192.0.2.20",
}
API_SERVER, CALLERS, AGENTS = "192.0.2.1/32", "203.0.113.0/24", "198.51.100.0/25"
NAMES = ("kube-system k8s-app=kube-dns", [53, 53])
ENGINES = {("192.0.2.31/32", (8080,)), ("192.0.2.32/32", (11434,))}
ADMIN, PROXY = (
    "athena-admin app.kubernetes.io/name=athena-admin-backend",
    "athena app.kubernetes.io/name=athena-model-proxy",
)
ORCHESTRATOR, REDIS = "athena app.kubernetes.io/name=athena-orchestrator", "athena app.kubernetes.io/name=redis"
LOOK, VERIFY = "athena app.kubernetes.io/name=athena-look", "athena app.kubernetes.io/name=athena-verify"
REGISTER = "automation app.kubernetes.io/name=athena-register"
COMPARE = "automation app.kubernetes.io/name=athena-look"
OF_OURS = (PROXY, ORCHESTRATOR, LOOK, VERIFY, REGISTER, COMPARE)
SCRIPT = "automation job=a-script"
ROUTERS_REACH = ENGINES | {(ADMIN, (8080,)), (REDIS, (6379,))}


def rendered(folder: Path, **given: Any) -> dict[str, dict[str, Any]]:
    """Return the policy of each service, as the role renders it with what a deployment gives it."""
    (folder / "group_vars").symlink_to(ROOT / "group_vars")
    (include,) = yaml.safe_load((TASKS / "application.yml").read_text())
    render = {
        "ansible.builtin.copy": {
            "content": f"{{{{ lookup('ansible.builtin.template', '{TEMPLATE}') | from_yaml | to_json }}}}",
            "dest": f"{folder}/{{{{ application.key }}}}.json",
            "mode": "0600",
        },
        "loop": "{{ athena_released.applications | dict2items }}",
        "loop_control": {"loop_var": "application"},
        "vars": include["vars"],
    }
    role = [str(ROOT / "roles/kubernetes_app" / part / "main.yml") for part in ("defaults", "vars")]
    declare = {"ansible.builtin.import_tasks": str(TASKS / "declare.yml")}
    play = {"hosts": "cluster", "gather_facts": False, "vars_files": role, "tasks": [declare, render]}
    inventory = ROOT / "inventory/production"
    known = {"service_package_version": "1", "release_before": {"active": None}, **given}
    done = run_plays(folder, [play], inventory=inventory, variables=known)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("admin", "proxy", "orchestrator")}


def who(peer: dict[str, Any]) -> str:
    """Return a peer of a rule as NAMESPACE and LABEL=VALUE, either of them alone where it says no more, or as CIDR."""
    if "ipBlock" in peer:
        (network,) = peer["ipBlock"].values()
        return str(network)
    labels = [f"{name}={value}" for name, value in peer.get("podSelector", {}).get("matchLabels", {}).items()]
    namespace = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
    return " ".join(filter(None, [namespace, *labels]))


def let_in(policy: dict[str, Any]) -> list[str]:
    """Return who reaches the only port of the service."""
    (rule,) = policy["spec"]["ingress"]
    assert rule["ports"] == [{"port": "main", "protocol": "TCP"}]
    return sorted(who(peer) for peer in rule["from"])


def let_out(policy: dict[str, Any]) -> set[tuple[str, tuple[int, ...]]]:
    """Return whom the service reaches on which ports, beside the names' service."""
    rules = [(rule, [port["port"] for port in rule["ports"]]) for rule in policy["spec"]["egress"]]
    reached = [(who(peer), ports) for rule, ports in rules for peer in rule["to"]]
    assert reached.count(NAMES) == 1
    return {(peer, tuple(ports)) for peer, ports in reached if (peer, ports) != NAMES}


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return rendered(tmp_path_factory.mktemp("policies"), **GIVEN)


def test_they_are_for_the_pods_of_their_service_both_ways(policies: dict[str, dict[str, Any]]) -> None:
    selected = {name: policy["spec"]["podSelector"] for name, policy in policies.items()}
    named = {"admin": "athena-admin-backend", "proxy": "athena-model-proxy", "orchestrator": "athena-orchestrator"}
    assert selected == {key: {"matchLabels": {"app.kubernetes.io/name": name}} for key, name in named.items()}
    assert {tuple(policy["spec"]["policyTypes"]) for policy in policies.values()} == {("Ingress", "Egress")}


def test_the_look_up_without_a_token_is_reached_by_those_who_need_it_jobs_of_ours_and_agents(
    policies: dict[str, dict[str, Any]],
) -> None:
    assert let_in(policies["admin"]) == sorted([*OF_OURS, SCRIPT, AGENTS, API_SERVER])
    assert let_out(policies["admin"]) == {("192.0.2.20/32", (5432,)), (PROXY, (8100,))}


def test_proxy_and_orchestrator_are_reached_by_callers_and_reach_engines(policies: dict[str, dict[str, Any]]) -> None:
    assert let_in(policies["proxy"]) == sorted(["athena", ADMIN, CALLERS, API_SERVER])
    assert let_in(policies["orchestrator"]) == sorted(["athena", CALLERS, API_SERVER])
    assert let_out(policies["proxy"]) == let_out(policies["orchestrator"]) == ROUTERS_REACH


def test_nobody_outside_of_the_cluster_reaches_the_admin_api_unless_an_inventory_says_so(tmp_path: Path) -> None:
    outside = ("athena_admin_clients", "athena_client_networks", "athena_admin_networks", "athena_api_server_networks")
    policies = rendered(tmp_path, **(GIVEN | {name: [] for name in outside}))
    assert let_in(policies["admin"]) == sorted(OF_OURS)
    assert let_in(policies["proxy"]) == ["athena", ADMIN]
    assert let_in(policies["orchestrator"]) == ["athena"]
