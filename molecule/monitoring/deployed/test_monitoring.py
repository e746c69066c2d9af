"""The monitoring host as its operator finds it: everything asked answers, and no secret is for everybody's eyes."""

import json
import time
from itertools import chain
from urllib.parse import quote

from testinfra.host import Host

testinfra_hosts = ["ansible://monitoring"]
# Each secret of the scenario, and the one place where it is.
TOKENS = {
    "a-token-of-this-scenario": ["/etc/prometheus/alertmanager-secrets/webhook-token"],
    "the-token-for-the-cluster-of-this-scenario": ["/etc/prometheus/prometheus-secrets/kubernetes-token"],
    "the-password-of-the-redis-of-this-scenario": ["/etc/prometheus/redis-exporter-passwords.json"],
}
ASK = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen('{}').read().decode())"


def fetched(host: Host, url: str) -> str:
    answer: str = host.check_output(f'python3 -c "{ASK.format(url)}"')
    return answer


def asked(host: Host, query: str) -> list[tuple[dict[str, str], float]]:
    """What Prometheus answers: of each series its labels and its value."""
    answer = json.loads(fetched(host, f"http://127.0.0.1:9090/api/v1/query?query={quote(query)}"))
    return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]


def test_everything_that_is_asked_answers(host: Host) -> None:
    deadline = time.monotonic() + 30
    while [labels for labels, value in asked(host, "up") if value != 1]:
        assert time.monotonic() < deadline, asked(host, "up")
        time.sleep(0.5)
    jobs = {labels["job"] for labels, _ in asked(host, "up")}
    assert jobs >= {"node", "postgres", "redis", "agent", "proxy", "health", "prometheus", "alertmanager"}


def test_each_target_says_whose_it_is(host: Host) -> None:
    found = {
        (labels["job"], labels.get("service"), labels["instance"].rpartition(":")[2]) for labels, _ in asked(host, "up")
    }
    assert ("agent", "agent", "8110") in found
    assert ("proxy", "proxy", "8100") in found
    assert ("health", "proxy", "8100/health") in found


def test_hosts_tell_of_themselves_and_of_their_units(host: Host) -> None:
    assert len([value for _, value in asked(host, "node_memory_MemTotal_bytes") if value > 0]) == 2
    assert [value for _, value in asked(host, 'node_systemd_unit_state{name="ollama.service",state="active"}')] == [1]


def test_the_database_tells_of_itself(host: Host) -> None:
    assert [value for _, value in asked(host, "pg_up")] == [1]
    assert [value > 0 for _, value in asked(host, 'pg_database_size_bytes{datname="athena"}')] == [True]
    [(labels, end)] = asked(host, "athena_certificate_end_timestamp_seconds")
    assert labels["certificate"] == "postgresql"
    assert end > time.time() + 700 * 86400, "nearly as long as a new one lasts"


def test_a_redis_with_a_password_tells_of_itself(host: Host) -> None:
    assert [value for _, value in asked(host, "redis_up")] == [1]
    assert [value > 0 for _, value in asked(host, "redis_memory_used_bytes")] == [True]


def test_the_agent_tells_of_engines_and_memory(host: Host) -> None:
    states = {labels["engine"]: value for labels, value in asked(host, 'athena_engine_state{state="healthy"}')}
    assert set(states) == {"tiny", "ollama"}
    assert all(value > 0 for _, value in asked(host, "athena_host_memory_total_bytes"))


def test_each_health_is_probed(host: Host) -> None:
    assert {labels["service"] for labels, value in asked(host, "probe_success") if value == 1} == {
        "agent",
        "proxy",
        "inside",
    }


def test_pods_of_a_cluster_are_asked_through_its_api_server(host: Host) -> None:
    [(labels, value)] = asked(host, 'up{job="inside"}')
    assert (labels["instance"], labels["service"], value) == ("athena-model-proxy-0", "inside", 1)
    [(probed, well)] = asked(host, 'probe_success{service="inside"}')
    assert (probed["job"], probed["pod"], well) == ("health", "athena-model-proxy-0", 1)
    assert {labels["service"] for labels, _ in asked(host, 'probe_success{pod=""}')} == {"agent", "proxy"}
    assert len(asked(host, 'athena_build_info{job="inside"}')) == 1


def test_rules_are_those_that_are_declared(host: Host) -> None:
    answer = json.loads(fetched(host, "http://127.0.0.1:9090/api/v1/rules"))
    files = {group["file"] for group in answer["data"]["groups"]}
    assert "/etc/prometheus/rules/own-scenario.yml" in files
    assert files == {f"/etc/prometheus/rules/{name}" for name in host.check_output("ls /etc/prometheus/rules").split()}


def test_nothing_listens_for_others_that_asks_for_no_password(host: Host) -> None:
    listening = host.check_output("ss --listening --tcp --numeric --no-header").splitlines()
    assert {line.split()[3] for line in listening if "127.0.0.1:" not in line and "[::1]:" not in line} <= {
        "0.0.0.0:22",
        "[::]:22",
    }


def test_secrets_are_for_the_daemons_alone(host: Host) -> None:
    places = "/etc --exclude-dir=redis /var/lib/prometheus /var/log /run"
    found = {
        token: host.run(f"grep --recursive --files-with-matches {token} {places}").stdout.split() for token in TOKENS
    }
    assert found == TOKENS
    for path in (*chain(*TOKENS.values()), "/etc/prometheus/alertmanager.yml"):
        assert (host.file(path).user, host.file(path).group, host.file(path).mode) == ("root", "prometheus", 0o640)
