"""`athena verify`: what it prints and how it ends."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.server import EngineServer
from tests.proxy.engines import ollama_engine, openai_engine
from tests.proxy.standin import Registry, StandIn, backend
from tests.support.admin import AdminApi
from tests.support.ports import quiet_port
from tests.support.processes import athena

TOKEN = "a-token-of-these-tests"


@pytest.fixture
def engine() -> Iterator[StandIn]:
    with StandIn(openai_engine) as engine:
        yield engine


@pytest.fixture
def ollama() -> Iterator[StandIn]:
    with StandIn(ollama_engine) as engine:
        yield engine


def access(registry: StandIn, ollama_url: str) -> dict[str, str]:
    return {"ADMIN_API_URL": registry.url, "ADMIN_API_TOKEN": TOKEN, "OLLAMA_URL": ollama_url}


def nowhere() -> str:
    return f"http://127.0.0.1:{quiet_port()}"


def test_a_table_shows_what_each_engine_answered(engine: StandIn, ollama: StandIn) -> None:
    with Registry([backend("house", "auto", engine.url), backend("off", "mlx", nowhere(), enabled=False)]) as registry:
        done = athena("verify", "--question", "Who is there?", **access(registry, ollama.url))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    header, first, fallback = done.stdout.splitlines()
    assert header.split() == [
        *("MODEL", "ENGINE", "ENDPOINT", "PLACE", "RESULT", "TOKENS", "TOKENS/S", "SECONDS", "ANSWER"),
    ]
    assert first.split()[:6] == ["house", "mlx", engine.url, "first", "answered", "5"]
    assert fallback.split()[:6] == ["house", "ollama", ollama.url, "fallback", "answered", "5"]
    assert first.endswith("Hello there, caller.")
    assert engine.heard[0].json["messages"] == [{"role": "user", "content": "Who is there?"}]


def test_a_fallback_that_is_down_is_found_and_named(engine: StandIn) -> None:
    gone = nowhere()
    with Registry([backend("house", "auto", engine.url)]) as registry:
        variables = access(registry, gone.replace("//", "//bob:pa55@"))
        shown = athena("verify", **variables)
        listed = athena("verify", "--json", **variables)
    assert (shown.returncode, listed.returncode) == (8, 8)
    assert shown.stderr.startswith(f"error: ollama at {gone} (fallback of house): refused: ")
    assert listed.stderr == "", "where both are one log, it is still JSON"
    assert "pa55" not in shown.stdout + shown.stderr + listed.stdout + listed.stderr
    assert shown.stdout.splitlines()[2].split()[:5] == ["house", "ollama", gone, "fallback", "failed"]
    first, fallback = json.loads(listed.stdout)
    assert first | {"seconds": 0, "tokens_per_second": 0} == {
        "model": "house",
        "engine": "mlx",
        "endpoint_url": engine.url,
        "place": "first",
        "passed": True,
        "answer": "Hello there, caller.",
        "finish_reason": "stop",
        "completion_tokens": 5,
        "tokens_per_second": 0,
        "seconds": 0,
        "error": None,
    }
    assert (fallback["passed"], fallback["place"], fallback["endpoint_url"]) == (False, "fallback", gone)
    assert fallback["error"].startswith("refused: ")


def test_only_the_models_that_are_named_are_asked(engine: StandIn, ollama: StandIn) -> None:
    rows = [backend("a", "openai", engine.url), backend("b", "ollama", ollama.url), backend("c", "mlx", nowhere())]
    with Registry(rows) as registry:
        variables = access(registry, ollama.url)
        done = athena("verify", "--json", "--model", "b", "--model", "a", **variables)
        unknown = athena("verify", "--model", "d", **variables)
    assert done.returncode == 0, done.stderr
    assert [verdict["model"] for verdict in json.loads(done.stdout)] == ["b", "a"]
    assert unknown.returncode == 1
    assert unknown.stderr == ("error: the registry has no enabled backend of the model d; it has those of a, b, c\n")


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([], "error: the registry is empty: "),
        (
            [backend("m", "mlx", "http://127.0.0.1:9", enabled=False)],
            "error: every backend of the registry is disabled",
        ),
    ],
)
def test_a_registry_that_holds_nothing_to_ask_is_told(rows: list[dict[str, Any]], complaint: str) -> None:
    with Registry(rows) as registry:
        done = athena("verify", **access(registry, nowhere()))
    assert done.returncode == 1
    assert done.stderr.startswith(complaint)
    assert done.stdout == ""


def test_a_registry_that_cannot_be_read_is_told_from_an_empty_one() -> None:
    done = athena("verify", ADMIN_API_URL=nowhere(), ADMIN_API_TOKEN=TOKEN)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no answer from the Admin API at ")
    assert "set ADMIN_API_TOKEN" in athena("verify").stderr


def test_the_figures_and_the_state_of_a_router_nearby_are_left_alone(engine: StandIn, tmp_path: Path) -> None:
    state = tmp_path / "router.json"
    state.write_text("{}")
    registry = Registry([backend("m", "openai", engine.url)])
    with registry:
        done = athena("verify", ROUTER_STATE_FILE=str(state), **access(registry, nowhere()))
        assert registry.figures == []
    assert done.returncode == 0, done.stderr
    assert state.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [state]


@pytest.mark.engine
def test_a_real_fallback_that_is_down_is_found_while_the_first_answers(
    admin_api: AdminApi, mlx_server: EngineServer, ollama_server: EngineServer
) -> None:
    admin_api.add(ollama_server.model, backend_type="auto", endpoint_url=mlx_server.url)
    variables = {
        "ADMIN_API_URL": admin_api.base_url,
        "ADMIN_API_TOKEN": admin_api.token,
        "OLLAMA_URL": ollama_server.url,
    }
    sound = athena("verify", "--max-tokens", "4", **variables)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    ollama_server.kill()
    try:
        broken = athena("verify", "--max-tokens", "4", **variables)
    finally:
        ollama_server.start()
    assert broken.returncode == 8, broken.stdout + broken.stderr
    _, first, fallback = broken.stdout.splitlines()
    assert first.split()[1:5] == ["mlx", mlx_server.url, "first", "answered"]
    assert int(first.split()[5]) > 0
    assert fallback.split()[1:5] == ["ollama", ollama_server.url, "fallback", "failed"]
    assert broken.stderr.startswith(f"error: ollama at {ollama_server.url} (fallback of {ollama_server.model}): ")
