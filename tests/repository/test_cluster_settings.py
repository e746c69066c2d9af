"""What the preflight says of an inventory's settings, before anything is done."""

import re
from typing import Any

import pytest
import yaml
from loading import ROOT, load
from playing import evaluated

from athena.admin.schemas import BackendNew

filters = load("plugins/filter/cluster_settings.py")
BACKEND = {"model_name": "tiny", "backend_type": "ollama", "endpoint_url": "http://192.0.2.32:11434"}
EGRESS = [
    {"cidr": "192.0.2.31/32", "ports": [8080]},
    {"cidr": "192.0.2.32/32", "ports": [11434]},
    {"cidr": "198.51.100.0/24", "ports": [8080, 11434]},
    {"cidr": "2001:db8::/64", "ports": [8080]},
]
SERVICES = [{"name": "mlx-service", "port": 8080, "addresses": ["192.0.2.31"]}]
ELSEWHERE = "Name its network in athena_engine_networks, and the port in athena_engine_ports."


def told(**settings: Any) -> list[str]:
    found: list[str] = filters.problems(settings)
    return found


def closed(url: str, **fields: Any) -> list[str]:
    barred: list[str] = filters.out_of_reach([{**BACKEND, "endpoint_url": url, **fields}], EGRESS, SERVICES)
    return barred


def test_settings_that_hold_are_not_spoken_of() -> None:
    assert (
        told(
            athena_database_address="192.0.2.20",
            athena_mlx_addresses=["192.0.2.31"],
            athena_ollama_addresses=[],
            athena_client_networks=["192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0", "192.0.2.7/24"],
            athena_engine_ports=[8080, "11434"],
            athena_exposure="LoadBalancer",
            athena_admin_exposure="ClusterIP",
            athena_external_traffic="Cluster",
            athena_proxy_autoscaling={"min": 2, "max": 2, "cpu_percent": "70"},
            athena_replicas={"proxy": 3},
            athena_backends=[
                BACKEND,
                {**BACKEND, "backend_type": "openai", "endpoint_url": "https://[2001:db8::1]/v1"},
            ],
        )
        == []
    )
    assert told(athena_database_address="", athena_proxy_autoscaling={}, athena_replicas={}, athena_backends=[]) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("athena_database_address", "db.example.internal", "db.example.internal is no address"),
        ("athena_database_address", "2001:db8::20", "IPv4 alone. Name one as 192.0.2.20"),
        ("athena_mlx_addresses", ["192.0.2.31", "mac-1"], "mac-1 is no address"),
        ("athena_ollama_addresses", ["2001:db8::31"], "2001:db8::31 is an address of IPv6"),
        ("athena_ollama_addresses", ["192.0.2.32:11434"], "192.0.2.32:11434 is no address"),
        ("athena_mlx_addresses", "192.0.2.31", "must be a list of addresses"),
        ("athena_client_networks", ["192.0.2.7"], "Write 192.0.2.7/32"),
        ("athena_admin_networks", ["2001:db8::7"], "Write 2001:db8::7/128"),
        ("athena_engine_networks", ["example.internal"], "example.internal is no network"),
        ("athena_engine_networks", ["192.0.2.0/33"], "192.0.2.0/33 is no network"),
        ("athena_engine_networks", ["192.0.2.0/255.255.255.0"], "is no network"),
        ("athena_api_server_networks", [7], "7 is no network"),
        ("athena_database_networks", None, "must be a list of networks"),
        ("athena_engine_ports", [0], "numbers from 1 to 65535"),
        ("athena_engine_ports", 8080, "must be a list"),
        ("athena_exposure", "ClusterIP", "must be NodePort or LoadBalancer, because"),
        ("athena_admin_exposure", "Ingress", "must be ClusterIP, NodePort or LoadBalancer; it is Ingress"),
        ("athena_external_traffic", "local", "must be Local or Cluster"),
        ("athena_proxy_autoscaling", {"min": 2, "max": 6}, "must have min, max, cpu_percent"),
        ("athena_proxy_autoscaling", {"min": 2, "max": 6, "cpu": 70}, "must have min, max, cpu_percent"),
        ("athena_proxy_autoscaling", {"min": 6, "max": 2, "cpu_percent": 70}, "min at most max"),
        ("athena_proxy_autoscaling", {"min": 0, "max": 2, "cpu_percent": 70}, "whole numbers from 1"),
        ("athena_proxy_autoscaling", "on", "must have min, max, cpu_percent"),
        ("athena_replicas", {"proxy": 0}, "numbers from 1 to 100"),
        ("athena_replicas", 3, "must be a mapping"),
        ("athena_backends", {"model_name": "tiny"}, "must be a list of mappings"),
        ("athena_backends", ["tiny"], "athena_backends[0] (without a model_name): it must be a mapping"),
    ],
)
def test_each_that_does_not_is_named_with_the_remedy(name: str, value: Any, words: str) -> None:
    [problem] = told(**{name: value})
    assert problem.startswith(name)
    assert words in problem
    assert problem.endswith(".")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_name": None}, "(without a model_name): model_name is missing"),
        ({"endpoint_url": ""}, "endpoint_url is missing"),
        ({"backend_type": None}, "backend_type is missing"),
        ({"backend_type": "vllm"}, "backend_type must be ollama, mlx, auto or openai; it is vllm"),
        ({"maxtokens": 7}, "there is no field 'maxtokens'"),
        ({"endpoint_url": "192.0.2.32:11434"}, "endpoint_url must be http"),
        ({"endpoint_url": "http://192.0.2.32:port"}, "endpoint_url must be http"),
        ({"endpoint_url": "ftp://192.0.2.32"}, "endpoint_url must be http"),
    ],
)
def test_of_a_backend_its_place_is_told_and_it_is_not_asked(changed: dict[str, Any], words: str) -> None:
    row = {key: value for key, value in {**BACKEND, **changed}.items() if value is not None}
    [problem] = told(athena_backends=[BACKEND, row])
    assert problem.startswith("athena_backends[1] (")
    assert words in problem
    assert filters.whole_backends([BACKEND, row]) == [BACKEND]
    assert filters.out_of_reach([row], [], []) == []


def test_a_password_in_an_address_is_not_told() -> None:
    [problem] = told(athena_backends=[{**BACKEND, "endpoint_url": "http://user:of-a-test@192.0.2.32:11434"}])
    assert "a host without a user" in problem
    assert "of-a-test" not in problem


def test_the_fields_of_a_backend_are_those_of_the_admin_api() -> None:
    assert list(filters.FIELDS) == list(BackendNew.model_fields)


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.31:8080",
        "http://198.51.100.7:11434/",
        "http://[2001:db8::5]:8080",
        "http://mlx-service.athena.svc.cluster.local:8080",
        "http://mlx-service.athena.svc:8080",
        "http://mac-1.example.internal:8080",
        "http://vllm.inference.svc:8000/v1",
    ],
)
def test_what_a_rule_covers_is_reached(url: str) -> None:
    assert closed(url) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://192.0.2.99:11434", f"lets pods reach 192.0.2.99 at port 11434. {ELSEWHERE}"),
        ("http://192.0.2.31:11434", "reach 192.0.2.31 at port 11434"),
        ("https://models.example.com/v1", f"reach models.example.com at port 443. {ELSEWHERE}"),
        ("http://models.example.com", "at port 80"),
        ("http://ollama.athena.svc:11434", "leads nowhere while athena_ollama_addresses is empty"),
        ("http://mlx-service.athena.svc:8081", "has the port 8080, and endpoint_url names 8081"),
    ],
)
def test_what_none_covers_is_told_with_what_opens_it(url: str, words: str) -> None:
    [problem] = closed(url)
    assert problem.startswith("athena_backends[0] (tiny): ")
    assert words in problem
    assert closed(url, enabled=False) == []


def test_a_name_of_others_in_the_cluster_needs_a_rule_for_its_pods() -> None:
    backend = {**BACKEND, "endpoint_url": "http://vllm.inference.svc:8000"}
    assert len(filters.out_of_reach([backend], [], [])) == 1


# --- as an environment has them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_examples_have_no_finding(environment: str) -> None:
    assert evaluated(environment, "cluster", "athena_setting_problems") == []


def test_the_inventory_of_a_trial_has_none() -> None:
    script = (ROOT / "molecule/shared/trial").read_text()
    written = script.partition('group_vars/$group/main.yml" <<EOF\n')[2].partition("\nEOF\n")[0].replace("\\`", "`")
    known = {"network": "192.0.2.0/24", "database": "192.0.2.3", "engines": "192.0.2.4"}
    settings = yaml.safe_load(re.sub(r"\$\{(\w+)\}", lambda found: known.get(found[1], "it"), written))
    assert settings["athena_mlx_addresses"] == ["192.0.2.4"]
    settings["athena_kubeconfig"] = "/nowhere"
    assert evaluated("production", "cluster", "athena_setting_problems", **settings) == []


def test_findings_of_several_settings_are_told_together() -> None:
    wrong = {
        "athena_database_address": "db.example.internal",
        "athena_exposure": "ClusterIP",
        "athena_ollama_addresses": ["mac-1"],
        "athena_engine_networks": ["192.0.2.0/24"],
        "athena_engine_ports": ["http"],
        "athena_backends": [{**BACKEND, "endpoint_url": "http://192.0.2.99:11434"}, {"backend_type": "vllm"}],
    }
    problems = evaluated("production", "cluster", "athena_setting_problems", **wrong)
    assert [problem.split()[0].rstrip(":") for problem in problems] == [
        "athena_ollama_addresses",
        "athena_engine_ports",
        "athena_database_address",
        "athena_exposure",
        *["athena_backends[1]"] * 3,
        "athena_backends[0]",
    ]


def test_rules_are_not_made_of_what_is_no_address() -> None:
    [problem] = evaluated("production", "cluster", "athena_setting_problems", athena_mlx_addresses=None)
    assert problem.startswith("athena_mlx_addresses must be a list")


def test_what_a_database_of_others_has_no_use_for_is_not_judged() -> None:
    external = {"postgresql_mode": "external", "athena_database_address": "db.example.internal"}
    assert evaluated("production", "cluster", "athena_setting_problems", **external) == []
    networks = {**external, "athena_database_external_networks": ["192.0.2.20"]}
    [problem] = evaluated("production", "cluster", "athena_setting_problems", **networks)
    assert "Write 192.0.2.20/32" in problem
