"""The configuration guide, example by example: scenarios, common operations, good practice, trouble."""

import asyncio
import json

import httpx
import pytest

from athena.router.errors import NoBackendError
from athena.router.llm_router import LLMRouter
from athena.settings import RouterSettings
from tests.walkthrough.installation import BACKENDS, CODE, LARGE, SMALL, Installation

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_a_new_registry_is_an_empty_list(installation: Installation) -> None:
    assert installation.backends() == []


def test_without_a_token_the_registry_is_closed(installation: Installation) -> None:
    answer = installation.anonymous.get(BACKENDS)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert installation.anonymous.post(BACKENDS, json={"model_name": SMALL}).status_code == 401


def test_scenario_1_a_model_on_ollama(installation: Installation) -> None:
    tags = httpx.get(f"{installation.ollama.url}/api/tags").json()
    assert SMALL in [model["name"] for model in tags["models"]]
    wanted = {
        "model_name": SMALL,
        "backend_type": "ollama",
        "endpoint_url": installation.ollama.url,
        "enabled": True,
        "max_tokens": 1024,
        "temperature_default": 0.5,
        "timeout_seconds": 45,
        "description": "A small model that sorts messages",
    }
    created = installation.http.post(BACKENDS, json=wanted)
    assert created.status_code == 201
    row = created.json()
    assert {field: row[field] for field in wanted} == wanted
    assert row["id"] >= 1
    assert row["created_at"].endswith("Z")
    assert row["updated_at"].endswith("Z")

    looked_up = installation.look_up(SMALL)
    assert {field: looked_up[field] for field in row} == row

    installation.change(row["id"], max_tokens=8)
    done = installation.generate(SMALL, "How much is seven times six?")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Response: ")
    assert done.stdout.endswith("Backend: ollama\n")


def test_scenario_2_a_model_on_mlx(installation: Installation) -> None:
    assert httpx.get(f"{installation.mlx.url}/v1/models").json()["object"] == "list"
    row = installation.create(SMALL, "mlx", installation.mlx.url, description="The same model on Apple silicon")
    assert row["backend_type"] == "mlx"
    assert installation.backend_that_answers(SMALL) == "mlx"


def test_scenario_3_auto_takes_mlx_and_falls_back_to_ollama_while_mlx_is_down(installation: Installation) -> None:
    installation.create(LARGE, "auto", installation.mlx.url, timeout_seconds=30)
    assert installation.look_up(LARGE)["backend_type"] == "auto"
    assert installation.backend_that_answers(LARGE) == "mlx"

    installation.mlx.kill()
    done = installation.generate(LARGE, "Name three rivers of Europe.")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Backend: ollama\n")
    assert "mlx_failed_falling_back_to_ollama" in done.stdout + done.stderr

    installation.mlx.start()
    assert installation.backend_that_answers(LARGE) == "mlx"


def test_scenario_4_each_model_has_the_engine_that_suits_it(installation: Installation) -> None:
    installation.create(SMALL, "mlx", installation.mlx.url, temperature_default=0.1, timeout_seconds=20)
    installation.create(LARGE, "ollama", installation.ollama.url, temperature_default=0.8, timeout_seconds=90)
    installation.create(CODE, "auto", installation.mlx.url, temperature_default=0.2, timeout_seconds=90)
    off = installation.create("retired:1b", "ollama", installation.ollama.url, enabled=False)

    enabled = {row["model_name"]: row["backend_type"] for row in installation.backends(enabled_only=True)}
    assert enabled == {SMALL: "mlx", LARGE: "ollama", CODE: "auto"}
    assert off["id"] in [row["id"] for row in installation.backends()]
    answering = {model: installation.backend_that_answers(model) for model in (SMALL, LARGE, CODE)}
    assert answering == {SMALL: "mlx", LARGE: "ollama", CODE: "mlx"}


async def test_a_model_is_switched_to_another_engine_while_programs_go_on(installation: Installation) -> None:
    created = installation.create(SMALL, "ollama", installation.ollama.url, description="stays as it is")
    found = next(row for row in installation.backends() if row["model_name"] == SMALL)
    assert found["id"] == created["id"]
    settings = RouterSettings.model_validate(
        {"admin_api_url": installation.admin.url, "ollama_url": installation.ollama.url}
    )
    async with LLMRouter(settings) as router:
        assert (await router.generate(model=SMALL, prompt="Before the switch."))["backend"] == "ollama"
        changed = installation.change(found["id"], backend_type="mlx", endpoint_url=installation.mlx.url)
        assert changed["description"] == "stays as it is"
        assert changed["updated_at"] >= created["updated_at"]
        assert installation.look_up(SMALL)["backend_type"] == "mlx"
        async with asyncio.timeout(10):  # the guide promises 60 s
            while (await router.generate(model=SMALL, prompt="After the switch."))["backend"] != "mlx":
                pass


@pytest.mark.parametrize("way", ["toggle", "put"])
def test_a_disabled_backend_is_replaced_by_the_default_ollama(installation: Installation, way: str) -> None:
    row = installation.create(SMALL, "mlx", installation.mlx.url)
    if way == "toggle":
        toggled = installation.http.post(f"{BACKENDS}/{row['id']}/toggle")
        assert toggled.status_code == 200
        assert toggled.json()["enabled"] is False
    else:
        assert installation.change(row["id"], enabled=False)["enabled"] is False
    assert installation.look_up(SMALL)["enabled"] is False
    assert installation.backends(enabled_only=True) == []
    assert installation.backend_that_answers(SMALL) == "ollama"

    assert installation.http.post(f"{BACKENDS}/{row['id']}/toggle").json()["enabled"] is True
    assert installation.backend_that_answers(SMALL) == "mlx"


def test_a_deleted_backend_is_replaced_by_the_default_ollama(installation: Installation) -> None:
    row = installation.create(SMALL, "mlx", installation.mlx.url)
    assert installation.http.delete(f"{BACKENDS}/{row['id']}").status_code == 204
    missing = installation.anonymous.get(f"{BACKENDS}/model/{SMALL}")
    assert missing.status_code == 404
    assert missing.json()["status"] == 404
    assert installation.http.delete(f"{BACKENDS}/{row['id']}").status_code == 404
    assert installation.backend_that_answers(SMALL) == "ollama"


def test_all_models_are_registered_in_a_loop_with_the_defaults(installation: Installation) -> None:
    for model in (SMALL, LARGE, CODE):
        answer = installation.http.post(
            BACKENDS,
            json={
                "model_name": model,
                "backend_type": "ollama",
                "endpoint_url": installation.ollama.url,
                "enabled": True,
            },
        )
        assert answer.status_code == 201
    rows = installation.backends()
    assert [row["model_name"] for row in rows] == [SMALL, LARGE, CODE]
    defaults = {(row["max_tokens"], row["temperature_default"], row["timeout_seconds"]) for row in rows}
    assert defaults == {(2048, 0.7, 60)}


def test_a_second_configuration_of_a_model_is_refused_with_the_way_out(installation: Installation) -> None:
    first = installation.create(SMALL, "ollama", installation.ollama.url)
    fields = {"model_name": SMALL, "backend_type": "mlx", "endpoint_url": installation.mlx.url}
    refused = installation.http.post(BACKENDS, json=fields)
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    detail = refused.json()["detail"]
    assert "priority" in detail
    assert str(first["id"]) in detail

    second = installation.http.post(BACKENDS, json={**fields, "priority": 1})
    assert second.status_code == 201
    route = installation.look_up(SMALL)
    assert route["backend_type"] == "ollama"
    assert [backend["backend_type"] for backend in route["route"]] == ["ollama", "mlx"]


def test_single_fields_are_changed_and_the_rest_stays(installation: Installation) -> None:
    row = installation.create(SMALL, "mlx", installation.mlx.url)
    assert installation.change(row["id"], backend_type="auto")["backend_type"] == "auto"
    assert installation.change(row["id"], timeout_seconds=25)["timeout_seconds"] == 25
    described = installation.change(row["id"], description="Sorts messages for the orchestrator; about 0.4 s each.")
    expected = row | {"backend_type": "auto", "timeout_seconds": 25, "description": described["description"]}
    assert {name: described[name] for name in row if name != "updated_at"} == {
        name: value for name, value in expected.items() if name != "updated_at"
    }


def test_a_wrong_value_is_named_with_its_field(installation: Installation) -> None:
    row = installation.create(SMALL, "mlx", installation.mlx.url)
    for field, value in {"timeout_seconds": 0, "backend_type": "cuda", "endpoint_url": "engine:8080"}.items():
        answer = installation.http.put(f"{BACKENDS}/{row['id']}", json={field: value})
        assert answer.status_code == 422, answer.text
        assert [fault["field"] for fault in answer.json()["errors"]] == [field]
    assert installation.look_up(SMALL)["timeout_seconds"] == row["timeout_seconds"]


async def ask(installation: Installation, model: str) -> str:
    settings = RouterSettings.model_validate(
        {"admin_api_url": installation.admin.url, "ollama_url": installation.ollama.url}
    )
    async with LLMRouter(settings) as router:
        return str((await router.generate(model=model, prompt="Is anybody there?"))["backend"])


async def test_an_mlx_server_that_is_not_running_is_named_in_the_error(installation: Installation) -> None:
    installation.create(SMALL, "mlx", installation.mlx.url)
    installation.mlx.kill()
    with pytest.raises(NoBackendError, match="refused") as error:
        await ask(installation, SMALL)
    assert installation.mlx.url in error.value.detail
    assert installation.look_up(SMALL)["endpoint_url"] == installation.mlx.url
    installation.mlx.start()
    assert await ask(installation, SMALL) == "mlx"


async def test_auto_with_both_engines_down_says_that_both_failed(installation: Installation) -> None:
    installation.create(SMALL, "auto", installation.mlx.url)
    installation.mlx.kill()
    installation.ollama.kill()
    with pytest.raises(NoBackendError) as error:
        await ask(installation, SMALL)
    assert installation.mlx.url in error.value.detail
    assert installation.ollama.url in error.value.detail


async def test_a_model_that_ollama_does_not_have_is_reported_in_its_words(installation: Installation) -> None:
    installation.create("never-pulled:7b", "ollama", installation.ollama.url)
    with pytest.raises(NoBackendError, match=r"never-pulled:7b.*not found"):
        await ask(installation, "never-pulled:7b")


def test_an_address_inside_the_cluster_can_be_registered(installation: Installation) -> None:
    row = installation.create(SMALL, "auto", "http://mlx-service.athena.svc.cluster.local:8080")
    assert row["endpoint_url"] == "http://mlx-service.athena.svc.cluster.local:8080"


def test_names_with_slashes_are_looked_up_as_they_are(installation: Installation) -> None:
    installation.create("org/some-model:Q4_K_M", "openai", "http://vllm.example.internal:8000")
    assert installation.look_up("org/some-model:Q4_K_M")["model_name"] == "org/some-model:Q4_K_M"


def test_answers_are_plain_json(installation: Installation) -> None:
    installation.create(SMALL, "ollama", installation.ollama.url)
    answer = installation.http.get(BACKENDS)
    assert answer.headers["content-type"].startswith("application/json")
    assert isinstance(json.loads(answer.text), list)
