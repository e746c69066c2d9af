"""What the official Ollama client is told of models behind the proxy: which are loaded, and what one is made of."""

from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from tests.proxy.conftest import Run, StartProxy, closed_port, running_proxy, wait_for_configuration
from tests.proxy.engines import ollama_engine, openai_engine
from tests.proxy.standin import Registry, StandIn, backend

LATER = "2318-01-01T00:00:00.5+01:00"


def loaded(*names: str) -> list[dict[str, Any]]:
    """Return what Ollama says of these models in memory."""
    return [
        {
            "name": name,
            "model": name,
            "size": 5,
            "digest": "ab" * 32,
            "details": {"family": "llama"},
            "expires_at": LATER,
            "size_vram": 5,
            "context_length": 4096,
        }
        for name in names
    ]


@pytest.fixture
def engines(stand_in: Run) -> tuple[StandIn, StandIn]:
    """The default Ollama, and another one; both hold models that nobody registered as well."""
    default, other = stand_in(ollama_engine), stand_in(ollama_engine)
    default.loaded = loaded("auto:latest", "unregistered:latest")
    other.loaded = loaded("phi:latest", "phi:14b", "somebody's:latest")
    other.shows = {"capabilities": ["completion", "vision"], "model_info": {"llama.context_length": 8192}}
    return default, other


@pytest.fixture
def client(engines: tuple[StandIn, StandIn], stand_in: Run) -> Iterator[ollama.Client]:
    """The official client of a proxy in front of them, and of an OpenAI-compatible server."""
    default, other = engines
    server = stand_in(openai_engine)
    rows = [
        backend("phi", "ollama", other.url),
        backend("phi:14b", "ollama", f"http://127.0.0.1:{closed_port()}"),
        backend("phi:14b", "ollama", other.url, priority=1),
        backend("phi:off", "ollama", other.url, enabled=False),
        backend("auto", "auto", server.url),
        backend("vllm", "openai", server.url, capabilities={"tools": True, "images": False, "context_tokens": 9000}),
    ]
    with Registry(rows) as registry, running_proxy(registry.url, default.url) as url:
        client = ollama.Client(host=wait_for_configuration(url))
        yield client
        client._client.close()


def test_what_is_loaded_is_listed_by_the_names_that_callers_say(client: ollama.Client) -> None:
    models = client.ps().models
    assert [model.name for model in models] == ["auto", "phi", "phi:14b", "unregistered:latest"]
    assert [model.model for model in models] == [model.name for model in models]
    assert {model.context_length for model in models} == {4096}
    assert models[0].expires_at is not None
    assert models[0].expires_at.year == 2318


def test_an_engine_that_does_not_answer_leaves_the_list_incomplete(client: ollama.Client) -> None:
    reply = client._client.get("/api/ps")
    assert reply.headers["x-athena-models"] == "incomplete"


def test_a_model_is_shown_as_an_ollama_of_its_route_shows_it(client: ollama.Client) -> None:
    for name in ("phi", "phi:14b"):
        shown = client.show(name)
        assert shown.capabilities == ["completion", "vision"]
        assert shown.modelinfo == {"llama.context_length": 8192}
    older = client._client.post("/api/show", json={"name": "phi"})
    assert older.json()["capabilities"] == ["completion", "vision"]


def test_of_a_model_that_no_ollama_has_there_is_what_is_known(
    client: ollama.Client, engines: tuple[StandIn, StandIn]
) -> None:
    shown = client.show("vllm")
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "unknown"
    assert shown.modelinfo["unknown.context_length"] == 9000
    assert shown.details is not None
    engines[0].shows = None
    assert client.show("auto").modelinfo == {}


def test_a_model_that_nobody_has_is_not_found(client: ollama.Client, engines: tuple[StandIn, StandIn]) -> None:
    engines[0].shows = None
    with pytest.raises(ollama.ResponseError, match="model 'nobody' not found") as error:
        client.show("nobody")
    assert error.value.status_code == 404


@pytest.mark.parametrize("body", [b"{}", b"[]", b"{", b'{"model": 1}'])
def test_what_names_no_model_is_refused(client: ollama.Client, body: bytes) -> None:
    reply = client._client.post("/api/show", content=body)
    assert (reply.status_code, list(reply.json())) == (400, ["error"])


def test_only_a_post_shows_a_model(proxy_for: StartProxy) -> None:
    reply = httpx.get(proxy_for() + "/api/show")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
