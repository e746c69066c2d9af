"""Arms in the registry: declared in one word, counted, and the canary's share that follows from it."""

import math
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.admin.test_backends import faults
from tests.support.admin import AdminApi

URL = "http://{}.example.internal:11434"


def add(api: AdminApi, name: str, **fields: Any) -> int:
    """Add a host of the model; returns its number."""
    return int(api.add("m", endpoint_url=URL.format(name), weight=1, **fields)["id"])


def report(api: AdminApi, number: int, requests: int, *, errors: int = 0, first: float = 0.5) -> None:
    """Report requests of which some failed, and the others had their first token after about so many seconds."""
    times = requests - errors
    logs = [math.log(first * (0.9 if place % 2 else 1.1)) for place in range(times)]
    figure = {
        "backend_id": number,
        "requests": requests,
        "errors": errors,
        "latency_ms_sum": 1000.0 * times,
        "times": times,
        "logs": sum(logs),
        "squares": sum(log * log for log in logs),
    }
    answer = api.client.post("/api/llm-backends/figures", json={"batch_id": str(uuid4()), "figures": [figure]})
    assert answer.status_code == 204, answer.text


def share(api: AdminApi, number: int) -> float | None:
    """Return the share of a canary."""
    found: float | None = api.client.get(f"/api/llm-backends/{number}").json()["share"]
    return found


def why(api: AdminApi, number: int) -> dict[str, Any]:
    """Return what is told of a backend."""
    found: dict[str, Any] = api.client.get(f"/api/llm-backends/{number}/why").json()
    return found


def version(api: AdminApi) -> int:
    """Return the registry's version."""
    return int(api.client.get("/api/llm-backends").headers["x-registry-version"])


def test_a_backend_is_no_arm_unless_it_says_so(admin_api: AdminApi) -> None:
    row = admin_api.add("m")
    assert (row["arm"], row["share"]) == (None, None)
    assert why(admin_api, row["id"])["arms"] == []


def test_a_canary_begins_with_a_percent_and_naming_the_arm_is_enough_for_a_second_backend(admin_api: AdminApi) -> None:
    admin_api.add("m")
    row = admin_api.add("m", endpoint_url=URL.format("new"), arm="canary")
    assert (row["arm"], row["share"]) == ("canary", 0.01)


def test_a_share_cannot_be_written_and_an_arm_has_to_be_a_word(admin_api: AdminApi) -> None:
    number = add(admin_api, "a")
    path = f"/api/llm-backends/{number}"
    assert faults(admin_api.client.put(path, json={"share": 0.5})) == {"share"}
    for arm in ("", "Two Words", "x" * 41, "-a", 1):
        assert faults(admin_api.client.put(path, json={"arm": arm})) == {"arm"}


def test_a_model_has_one_canary(admin_api: AdminApi) -> None:
    canary, other = add(admin_api, "a", arm="canary"), add(admin_api, "b")
    refused = admin_api.client.put(f"/api/llm-backends/{other}", json={"arm": "canary"})
    assert refused.status_code == 409
    assert f"PUT /api/llm-backends/{canary}" in refused.json()["detail"]
    assert admin_api.client.put(f"/api/llm-backends/{canary}", json={"arm": None}).json()["share"] is None
    assert admin_api.client.put(f"/api/llm-backends/{other}", json={"arm": "canary"}).json()["share"] == 0.01


def test_a_canary_doubles_its_share_until_it_has_all(admin_api: AdminApi) -> None:
    main, canary = add(admin_api, "a"), add(admin_api, "b", arm="canary")
    seen = [share(admin_api, canary)]
    for _ in range(7):
        before = version(admin_api)
        report(admin_api, main, 500)
        assert share(admin_api, canary) == seen[-1], "the canary has to be seen as well"
        assert version(admin_api) == before
        report(admin_api, canary, 50)
        seen.append(share(admin_api, canary))
        assert version(admin_api) == before + 1
    assert seen == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0]
    assert any("serves all callers" in words for words in why(admin_api, canary)["words"])


@pytest.mark.parametrize("fault", [{"errors": 30}, {"first": 5.0}])
def test_a_canary_that_fails_or_is_slow_goes_back_rests_and_tries_again(
    admin_api: AdminApi, fault: dict[str, Any]
) -> None:
    main, canary = add(admin_api, "a"), add(admin_api, "b", arm="canary")
    report(admin_api, main, 500)
    report(admin_api, canary, 60, **fault)
    assert share(admin_api, canary) == 0.0
    report(admin_api, main, 500)
    assert share(admin_api, canary) == 0.0, "it rests"
    (words,) = [words for words in why(admin_api, canary)["words"] if words.startswith("It is the canary")]
    assert "it went back:" in words
    with psycopg.connect(admin_api.database_url) as connection:
        connection.execute(
            "UPDATE llm_backends SET canary = jsonb_set(canary, '{since}', to_jsonb((canary->>'since')::float8 - 601))"
            " WHERE id = %s",
            [canary],
        )
    report(admin_api, main, 10)
    assert share(admin_api, canary) == 0.01
    entries = [entry for entry in admin_api.client.get("/api/audit-log").json() if entry["action"] == "share"]
    assert [entry["after"]["share"] for entry in entries] == [0.01, 0.0]


def test_another_engine_is_another_canary_and_other_changes_are_none(admin_api: AdminApi) -> None:
    main, canary = add(admin_api, "a"), add(admin_api, "b", arm="canary")
    report(admin_api, main, 500)
    report(admin_api, canary, 50)
    path = f"/api/llm-backends/{canary}"
    assert admin_api.client.put(path, json={"max_queue": 3}).json()["share"] == 0.02
    assert admin_api.client.put(path, json={"endpoint_url": URL.format("c")}).json()["share"] == 0.01


def test_a_disabled_canary_and_one_without_others_stay_as_they_are(admin_api: AdminApi) -> None:
    canary = add(admin_api, "b", arm="canary")
    report(admin_api, canary, 500)
    assert share(admin_api, canary) == 0.01
    main = add(admin_api, "a")
    admin_api.client.post(f"/api/llm-backends/{canary}/toggle").raise_for_status()
    for number in (main, canary):
        report(admin_api, number, 500)
    assert share(admin_api, canary) == 0.01
    assert why(admin_api, main)["arms"] == []


def test_arms_are_told_side_by_side_with_how_sure_it_is_that_they_differ(admin_api: AdminApi) -> None:
    fast, slow = add(admin_api, "a", arm="fast"), add(admin_api, "b")
    report(admin_api, fast, 200, first=0.4)
    report(admin_api, slow, 200, errors=20, first=0.8)
    told = why(admin_api, fast)
    by_name = {arm["arm"]: arm for arm in told["arms"]}
    assert by_name.keys() == {"fast", "main"}
    assert by_name["fast"]["first_token_seconds"] == pytest.approx(0.4, rel=0.02)
    assert by_name["main"]["slower"] == pytest.approx(1 / by_name["fast"]["slower"])
    assert by_name["main"]["more_errors"] == pytest.approx(0.1)
    for arm in by_name.values():
        assert arm["share"] == 0.5
        assert arm["slower_confidence"] > 0.999
        assert arm["errors_confidence"] > 0.999
    assert told["words"][0] == f"It is compared with backend {slow} of its priority, as arm fast."
    assert any(words.startswith("Arm main (backend 2) has 50% of the callers; of 200") for words in told["words"])


def test_where_two_are_alike_nothing_is_sure(admin_api: AdminApi) -> None:
    one, other = add(admin_api, "a", arm="one"), add(admin_api, "b")
    for number in (one, other):
        report(admin_api, number, 200, errors=2)
    for arm in why(admin_api, one)["arms"]:
        assert arm["slower_confidence"] < 0.9
        assert arm["errors_confidence"] < 0.9
