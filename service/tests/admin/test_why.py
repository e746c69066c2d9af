"""Why requests go to a backend: told by the Admin API, with what a proxy says."""

import json
from collections.abc import Iterator

import httpx
import pytest

from athena.admin.app import create_app
from athena.admin.place import figures, place
from athena.admin.schemas import Backend
from tests.admin.test_backends import NEW
from tests.proxy.conftest import running_proxy, wait_for_configuration
from tests.support.admin import ADMIN_TOKEN, AdminApi, admin_settings
from tests.support.http_server import serving


def backend(number: int, **more: object) -> Backend:
    """Return a row as the API tells it."""
    row = {
        "id": number,
        **NEW,
        "enabled": True,
        "max_tokens": 2048,
        "temperature_default": 0.7,
        "timeout_seconds": 60,
        "description": None,
        "priority": 0,
        "weight": 1,
        "max_concurrency": None,
        "max_queue": None,
        "first_token_seconds": None,
        "stall_seconds": None,
        "capabilities": None,
        "arm": None,
        "share": None,
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "avg_tokens_per_sec": None,
        "avg_latency_ms": None,
        "total_requests": 0,
        "total_errors": 0,
    }
    return Backend.model_validate(row | more)


def test_a_lone_backend_gets_all() -> None:
    assert place(backend(1), [backend(1)]) == ["It is the only enabled backend of phi3:mini: all requests go to it."]


def test_a_disabled_one_gets_nothing() -> None:
    one = backend(1, enabled=False)
    assert place(one, [one, backend(2)]) == ["It is disabled: no request goes to it."]


def test_equals_share_by_weight_and_others_come_before_and_after() -> None:
    route = [
        backend(1),
        backend(2, priority=1, weight=3),
        backend(3, priority=1),
        backend(4, priority=1, weight=0),
        backend(5, priority=2),
        backend(6, priority=2, enabled=False),
    ]
    share, before, after = place(route[1], route)
    assert share.startswith("It shares priority 1 with backends 3 and 4: by weight (3 of 4) it gets 75%")
    assert before == "It is asked where backend 1 cannot serve, which comes first by priority."
    assert after == "Where it cannot serve, backend 5 comes next by priority."
    assert place(route[3], route)[0] == (
        "It has no share (weight 0): it is asked where backends 2 and 3 of the same priority cannot serve."
    )
    assert place(route[0], route)[0] == "It has priority 0 to itself."


def test_equals_of_one_weight_share_by_who_should_be_done_first() -> None:
    route = [backend(1), backend(2), backend(3, weight=0)]
    assert place(route[0], route)[0] == (
        "It shares priority 0 with backend 2 of the same weight: each prompt goes where it should be done first, or to "
        "each 50% if the router goes by weight (ROUTER_HOST_POLICY=weighted)."
    )


def test_of_auto_is_said_what_it_is() -> None:
    one = backend(1, backend_type="auto")
    assert "MLX at its endpoint and the default Ollama" in place(one, [one])[-1]


def test_figures_are_told_as_far_as_there_are_any() -> None:
    assert figures(backend(1)) == "Nothing was asked of it yet."
    assert figures(backend(1, total_requests=3, total_errors=3)) == "It was asked 3 times, 3 of them in vain (100.0%)."
    told = figures(backend(1, total_requests=200, total_errors=1, avg_latency_ms=2310.0, avg_tokens_per_sec=41.25))
    assert told == (
        "It was asked 200 times, 1 of them in vain (0.5%); a whole reply took 2.31 s on average, at 41.2 tokens/s."
    )


def test_without_a_proxy_to_ask_the_registry_s_part_is_told(admin_api: AdminApi) -> None:
    row = admin_api.add("phi3:mini")
    told = admin_api.client.get(f"/api/llm-backends/{row['id']}/why")
    assert told.status_code == 200
    assert told.json() == {
        "id": row["id"],
        "model_name": "phi3:mini",
        "words": [
            "It is the only enabled backend of phi3:mini: all requests go to it.",
            "Nothing was asked of it yet.",
            "No proxy was asked what it has measured: the Admin API's PROXY_URL names none.",
        ],
        "arms": [],
        "policy": None,
        "choices": [],
    }


def test_a_backend_that_is_not_there_and_a_caller_without_a_token_are_refused(admin_api: AdminApi) -> None:
    assert admin_api.client.get("/api/llm-backends/99/why").status_code == 404
    assert httpx.get(f"{admin_api.base_url}/api/llm-backends/99/why").status_code == 401


@pytest.fixture
def asking(admin_api: AdminApi) -> Iterator[tuple[AdminApi, httpx.Client]]:
    """Give the Admin API, and a client of a second one that asks a proxy of the first."""
    admin_api.add("phi3:mini", endpoint_url="http://127.0.0.1:9")
    with running_proxy(admin_api.base_url, "http://127.0.0.1:9", token=ADMIN_TOKEN) as proxy:
        wait_for_configuration(proxy)
        settings = admin_settings(admin_api.database_url).model_copy(update={"proxy_url": proxy})
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        with (
            serving(create_app(settings)) as url,
            httpx.Client(base_url=url, headers=headers, timeout=30) as client,
        ):
            yield admin_api, client


def test_a_proxy_tells_how_it_chooses(asking: tuple[AdminApi, httpx.Client]) -> None:
    _, client = asking
    told = client.get("/api/llm-backends/1/why").json()
    assert told["policy"] == "priority"
    assert told["words"][-1].endswith("chooses just now as shown (policy priority).")
    (choice,) = told["choices"]
    assert choice["order"] == ["ollama at http://127.0.0.1:9"]
    assert "in the route" in choice["figures"][0]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9", "was asked what it has measured, in vain"),
        (None, "answered 404"),
    ],
)
def test_a_proxy_that_does_not_tell_is_named(admin_api: AdminApi, url: str | None, said: str) -> None:
    admin_api.add("phi3:mini")
    settings = admin_settings(admin_api.database_url).model_copy(update={"proxy_url": url or admin_api.base_url})
    with (
        serving(create_app(settings)) as address,
        httpx.Client(base_url=address, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}, timeout=30) as client,
    ):
        told = client.get("/api/llm-backends/1/why").json()
    assert said in told["words"][-1]
    assert json.dumps(told).count("choices") == 1
