import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from tests.support.admin import AdminApi

PATH = "/api/llm-backends/figures"


def report(api: AdminApi, *figures: dict[str, Any], batch_id: str | None = None) -> httpx.Response:
    return api.client.post(PATH, json={"batch_id": batch_id or str(uuid4()), "figures": list(figures)})


def shown(api: AdminApi, backend_id: int) -> dict[str, Any]:
    row = api.client.get(f"/api/llm-backends/{backend_id}").json()
    return {name: row[name] for name in ("total_requests", "total_errors", "avg_latency_ms", "avg_tokens_per_sec")}


def test_figures_are_means_over_everything_so_far(admin_api: AdminApi) -> None:
    number = admin_api.add("m")["id"]
    first = {
        "backend_id": number,
        "requests": 10,
        "errors": 1,
        "latency_ms_sum": 9000.0,
        "completion_tokens": 300,
        "completion_seconds": 10.0,
    }
    assert report(admin_api, first).status_code == 204
    assert shown(admin_api, number) == {
        "total_requests": 10,
        "total_errors": 1,
        "avg_latency_ms": pytest.approx(1000),
        "avg_tokens_per_sec": pytest.approx(30),
    }
    second = {
        "backend_id": number,
        "requests": 1,
        "latency_ms_sum": 2000.0,
        "completion_tokens": 100,
        "completion_seconds": 2.5,
    }
    report(admin_api, second)
    assert shown(admin_api, number) == {
        "total_requests": 11,
        "total_errors": 1,
        "avg_latency_ms": pytest.approx(1100),
        "avg_tokens_per_sec": pytest.approx(32),
    }


# As an operator's guide has it; scripts rely on these names.
PERFORMANCE = """.[] | {
    model: .model_name,
    backend: .backend_type,
    tokens_per_sec: .avg_tokens_per_sec,
    latency_ms: .avg_latency_ms,
    requests: .total_requests,
    errors: .total_errors
  }"""


def test_jq_shows_the_performance_of_every_backend(admin_api: AdminApi) -> None:
    busy = admin_api.add("phi3:mini", backend_type="mlx", endpoint_url="http://mac.example.internal:8080")["id"]
    admin_api.add("llama3.1:8b")
    figure = {"backend_id": busy, "requests": 142, "errors": 1, "latency_ms_sum": 141 * 2980.0}
    assert report(admin_api, {**figure, "completion_tokens": 3340, "completion_seconds": 100.0}).status_code == 204
    url = f"{admin_api.base_url}/api/llm-backends"
    authorization = f"Authorization: Bearer {admin_api.token}"
    answer = subprocess.run(
        ["curl", "--silent", "-X", "GET", url, "-H", authorization], capture_output=True, check=True, timeout=30
    )
    shown = subprocess.run(
        ["jq", "--compact-output", PERFORMANCE], input=answer.stdout, capture_output=True, check=True, timeout=30
    )
    assert [json.loads(line) for line in shown.stdout.splitlines()] == [
        {
            "model": "phi3:mini",
            "backend": "mlx",
            "tokens_per_sec": 33.4,
            "latency_ms": 2980.0,
            "requests": 142,
            "errors": 1,
        },
        {
            "model": "llama3.1:8b",
            "backend": "ollama",
            "tokens_per_sec": None,
            "latency_ms": None,
            "requests": 0,
            "errors": 0,
        },
    ]


def test_failures_alone_give_no_averages(admin_api: AdminApi) -> None:
    number = admin_api.add("m")["id"]
    report(admin_api, {"backend_id": number, "requests": 3, "errors": 3})
    assert shown(admin_api, number) == {
        "total_requests": 3,
        "total_errors": 3,
        "avg_latency_ms": None,
        "avg_tokens_per_sec": None,
    }


def test_a_batch_that_is_sent_again_counts_once(admin_api: AdminApi) -> None:
    number = admin_api.add("m")["id"]
    batch = str(uuid4())
    for _ in range(3):
        assert report(admin_api, {"backend_id": number, "requests": 1}, batch_id=batch).status_code == 204
    assert shown(admin_api, number)["total_requests"] == 1


def test_the_same_batch_sent_from_two_sides_at_once_counts_once(admin_api: AdminApi) -> None:
    number = admin_api.add("m")["id"]
    batch = str(uuid4())
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda _: report(admin_api, {"backend_id": number, "requests": 1}, batch_id=batch), range(6))
        )
    assert {answer.status_code for answer in answers} == {204}
    assert shown(admin_api, number)["total_requests"] == 1


def test_reports_from_many_routers_at_once_are_all_counted(admin_api: AdminApi) -> None:
    numbers = [admin_api.add(f"m{number}")["id"] for number in range(5)]

    def send(turn: int) -> int:
        order = numbers if turn % 2 else numbers[::-1]
        return report(admin_api, *({"backend_id": number, "requests": 1} for number in order)).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(40))) == {204}
    assert {shown(admin_api, number)["total_requests"] for number in numbers} == {40}


def test_a_backend_that_was_deleted_meanwhile_is_left_out(admin_api: AdminApi) -> None:
    number = admin_api.add("m")["id"]
    answer = report(admin_api, {"backend_id": 99, "requests": 1}, {"backend_id": number, "requests": 1})
    assert answer.status_code == 204
    assert shown(admin_api, number)["total_requests"] == 1


def test_a_backend_named_twice_in_one_batch_counts_twice(admin_api: AdminApi) -> None:
    number = admin_api.add("m")["id"]
    report(admin_api, *[{"backend_id": number, "requests": 1, "latency_ms_sum": 10.0}] * 2)
    assert shown(admin_api, number)["total_requests"] == 2
    assert shown(admin_api, number)["avg_latency_ms"] == pytest.approx(10)


def test_figures_are_no_configuration(admin_api: AdminApi) -> None:
    row = admin_api.add("m")
    report(admin_api, {"backend_id": row["id"], "requests": 1})
    assert len(admin_api.client.get("/api/audit-log").json()) == 1
    assert admin_api.client.get("/api/llm-backends").headers["x-registry-version"] == "1"
    assert admin_api.client.get(f"/api/llm-backends/{row['id']}").json()["updated_at"] == row["updated_at"]


def test_batches_are_remembered_for_a_week(admin_api: AdminApi) -> None:
    number = admin_api.add("m")["id"]
    batch = str(uuid4())
    report(admin_api, {"backend_id": number, "requests": 1}, batch_id=batch)
    age(admin_api, days=6)
    report(admin_api, {"backend_id": number, "requests": 1}, batch_id=batch)
    assert shown(admin_api, number)["total_requests"] == 1
    age(admin_api, days=2)
    report(admin_api, {"backend_id": number, "requests": 1})
    with psycopg.connect(admin_api.database_url) as connection:
        assert connection.execute("SELECT count(*) FROM llm_figure_batches").fetchone() == (1,)


def age(api: AdminApi, *, days: int) -> None:
    with psycopg.connect(api.database_url) as connection:
        connection.execute(
            "UPDATE llm_figure_batches SET received_at = received_at - make_interval(days => %s)", [days]
        )


@pytest.mark.parametrize(
    "figure",
    [
        {"backend_id": 1, "requests": 1, "errors": 2},
        {"backend_id": 1, "requests": -1},
        {"backend_id": 1, "requests": 10**30},
        {"backend_id": 2**31, "requests": 1},
        {"backend_id": 1, "requests": 1, "latency_ms_sum": 1e300},
        {"backend_id": 1, "requests": 1, "tokens": 1},
        {"requests": 1},
    ],
)
def test_figures_that_cannot_be_are_refused(admin_api: AdminApi, figure: dict[str, Any]) -> None:
    assert report(admin_api, figure).status_code == 422


def test_an_empty_batch_is_taken(admin_api: AdminApi) -> None:
    assert report(admin_api).status_code == 204
