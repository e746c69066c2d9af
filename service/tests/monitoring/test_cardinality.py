"""What callers make up does not become series."""

import re
from collections import Counter
from collections.abc import Mapping

import httpx
import pytest

from athena.observability import error_types
from athena.router.errors import FailureKind
from athena.router.types import Operation
from tests.monitoring.system import AUTO, BROKEN, SHARED, TOKEN, System
from tests.monitoring.traffic import OPENAI_CHAT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("traffic")]

MANY = 150
ODD_METHODS = ("PROPFIND", "MKCOL", "LOCK", "UNLOCK", "REPORT", "PURGE", "SEARCH", "TRACE", "OPTIONS", "DELETE")
_SERIES = re.compile(r"^(\w+)(\{.*\})? \S+$", re.MULTILINE)


def series(system: System) -> dict[str, Counter[str]]:
    """Return how many series each service has, by the metric's name."""
    texts = {name: httpx.get(f"{server.url}/metrics").text for name, server in system.services().items()}
    return {name: Counter(found[1] for found in _SERIES.finditer(text)) for name, text in texts.items()}


def flood(system: System, start: int, count: int) -> None:
    """Send so many requests of each odd kind; no two of them are alike."""
    chat = [{"role": "user", "content": "caller"}]
    key = {"authorization": f"Bearer {system.key}"}
    with (
        httpx.Client(base_url=system.proxy.url, timeout=60, headers=key) as proxy,
        httpx.Client(base_url=system.orchestrator.url, timeout=60) as orchestrator,
        httpx.Client(base_url=system.admin.url, timeout=60) as admin,
        httpx.Client(base_url=system.agent.url, timeout=60) as agent,
    ):
        for number in range(start, start + count):
            odd = f"odd-{number}"
            proxy.post(OPENAI_CHAT, json={"model": odd, "messages": chat})
            proxy.post("/api/generate", json={"model": odd, "prompt": "caller", "stream": True})
            proxy.post(OPENAI_CHAT, json={"model": SHARED, "messages": chat, odd: odd})
            proxy.post(OPENAI_CHAT, json={"model": [odd], "messages": chat})
            proxy.post(OPENAI_CHAT, content=f'{{"model": "{odd}'.encode())
            proxy.post(OPENAI_CHAT, json={"model": BROKEN, "messages": [{"role": "user", "content": f"caller {odd}"}]})
            proxy.post(OPENAI_CHAT, json={"model": AUTO, "messages": chat}, headers={"x-athena-priority": odd})
            proxy.post(OPENAI_CHAT, json={"model": odd, "messages": chat}, headers={"authorization": f"Bearer {odd}"})
            proxy.get(f"/v1/models/{odd}")
            for client in (proxy, orchestrator, admin, agent):
                client.get(f"/{odd}/{odd}")
                client.request(ODD_METHODS[number % len(ODD_METHODS)], "/health")
            orchestrator.post("/query", json={"query": f"talk {odd}", "mode": "owner", "conversation_id": odd})
            orchestrator.post("/query", json={"query": "talk", odd: odd})
            admin.get(f"/api/llm-backends/model/{odd}")
            admin.get("/api/hosts", headers={"authorization": f"Bearer {odd}"})
            admin.get(f"/api/llm-backends/{number + 10_000}", headers={"authorization": f"Bearer {TOKEN}"})
            admin.put(f"/api/hosts/{odd}", json={odd: odd}, headers={"authorization": f"Bearer {TOKEN}"})


@pytest.mark.timeout(300)
def test_a_flood_of_what_callers_make_up_adds_no_series(system: System) -> None:
    flood(system, 0, len(ODD_METHODS))  # the first of each kind may make the series that the others share
    before = series(system)
    flood(system, 1000, MANY)
    after = series(system)
    assert {service: after[service] - before[service] for service in after} == {service: Counter() for service in after}
    texts = [httpx.get(f"{server.url}/metrics").text for server in system.services().values()]
    assert not [line for text in texts for line in text.splitlines() if "odd-" in line]


def test_the_registry_bounds_the_number_of_series(system: System) -> None:
    with system.client() as client:
        rows = client.get("/api/llm-backends").json()
    engines = sum(2 if row["backend_type"] == "auto" else 1 for row in rows)
    models = len({row["model_name"] for row in rows})
    combinations = len(Operation) * (engines + 2 * models + 2)
    ends = len(error_types.GROUPS) + 1
    found = series(system)
    for service in ("proxy", "orchestrator"):
        replies = {name: count for name, count in found[service].items() if name.startswith("gen_ai_")}
        assert 0 < sum(replies.values()) <= combinations * (37 + 36 + 18 * ends)
        assert of_one_family(replies, "gen_ai_server_request_duration_seconds") <= combinations * 18 * ends
        assert of_one_family(replies, "gen_ai_client_token_usage") <= combinations * 36
        backends = sum(count for name, count in found[service].items() if name.startswith("athena_backend_"))
        assert backends <= (8 + 2 * len(FailureKind)) * (engines + models + 1)
        # What the traffic of these tests really makes is far from it.
        assert sum(found[service].values()) < 6000


def of_one_family(found: Mapping[str, int], family: str) -> int:
    """Return how many series the names of a histogram have together."""
    return sum(count for name, count in found.items() if name.startswith(f"{family}_"))
