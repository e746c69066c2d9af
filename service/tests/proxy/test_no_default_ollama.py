"""A proxy without a default Ollama: a model that the registry does not have is the caller's mistake, told at once."""

from contextlib import ExitStack, closing
from typing import Any

import httpx
import ollama
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.proxy.conftest import TOKEN, Run, StartProxy, closed_port, running_proxy
from tests.proxy.engines import openai_engine
from tests.proxy.standin import Heard, backend

NONE = "none"
MISSPELT = "phi3:mimi"
SAID = f"model '{MISSPELT}' not found"
MESSAGES = [{"role": "user", "content": "Hi"}]
OF_OPENAI: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/embeddings": {"input": "Hi"},
    "/v1/responses": {"input": "Hi"},
}
OF_OLLAMA: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": MESSAGES},
    "/api/generate": {"prompt": "Hi"},
    "/api/embed": {"input": "Hi"},
}


@pytest.fixture
def url(stand_in: Run, proxy_for: StartProxy) -> str:
    """A proxy with one model, `known`, one that is `off`, and one of an MLX that is gone."""
    engine = stand_in(openai_engine).url
    gone = f"http://127.0.0.1:{closed_port()}"
    return proxy_for(
        backend("known", "openai", engine),
        backend("off", "openai", engine, enabled=False),
        backend("auto", "auto", gone),
        ollama_url=NONE,
    )


def requests_of(url: str) -> dict[str, float]:
    """Return how many requests for a reply there were, by who was at fault; "" for those that went well."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    (family,) = (family for family in families if family.name == "athena_requests")
    return {sample.labels["error_group"]: sample.value for sample in family.samples if sample.name.endswith("_total")}


def errors_of(url: str) -> set[tuple[str, str, str]]:
    """Return the model, the group and the type of every error that was counted."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    (family,) = (family for family in families if family.name == "gen_ai_server_request_duration_seconds")
    return {
        (sample.labels["gen_ai_request_model"], sample.labels["error_group"], sample.labels["error_type"])
        for sample in family.samples
        if sample.labels["error_type"]
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [*OF_OPENAI, *OF_OLLAMA])
def test_an_unknown_model_is_404_in_the_callers_dialect_and_the_callers_fault(
    url: str, path: str, *, stream: bool
) -> None:
    asked = (OF_OPENAI | OF_OLLAMA)[path]
    if "embed" not in path:
        asked = asked | {"stream": stream}
    reply = httpx.post(url + path, json={"model": MISSPELT, **asked})
    assert reply.status_code == 404
    assert "retry-after" not in reply.headers
    told = {"message": SAID, "type": "not_found_error", "param": None, "code": "model_not_found"}
    assert reply.json() == {"error": told if path in OF_OPENAI else SAID}
    assert requests_of(url) == {"": 0, "caller": 1, "policy": 0, "backend": 0}
    assert errors_of(url) == {("other", "caller", "model_not_found")}


def test_the_clients_of_both_apis_know_it_for_what_it_is(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as refused:
            client.chat.completions.create(model=MISSPELT, messages=[{"role": "user", "content": "Hi"}], stream=True)
        assert refused.value.code == "model_not_found"
    of_ollama = ollama.Client(host=url)
    with closing(of_ollama._client):
        for ask in (of_ollama.show, lambda model: list(of_ollama.generate(model, "Hi", stream=True))):
            with pytest.raises(ollama.ResponseError, match=SAID) as missing:
                ask(MISSPELT)
            assert missing.value.status_code == 404


def test_a_load_of_an_unknown_model_is_404_as_well(url: str) -> None:
    reply = httpx.post(f"{url}/api/generate", json={"model": MISSPELT})
    assert (reply.status_code, reply.json()) == (404, {"error": SAID})


def test_registered_models_are_served_and_listed_alone(url: str) -> None:
    reply = httpx.post(f"{url}/v1/chat/completions", json={"model": "known", "messages": MESSAGES})
    assert reply.status_code == 200
    assert requests_of(url)[""] == 1
    assert [model["name"] for model in httpx.get(f"{url}/api/tags").json()["models"]] == ["auto", "known"]
    loaded = httpx.get(f"{url}/api/ps")
    assert loaded.json() == {"models": []}
    assert "x-athena-models" not in loaded.headers
    assert httpx.get(f"{url}/health").json()["status"] == "healthy"


def test_a_registered_model_that_no_engine_serves_is_our_fault(url: str) -> None:
    off = httpx.post(f"{url}/api/chat", json={"model": "off", "messages": MESSAGES})
    assert (off.status_code, off.json()) == (404, {"error": "model 'off' not found"})
    auto = httpx.post(f"{url}/api/chat", json={"model": "auto", "messages": MESSAGES})
    assert auto.status_code == 503
    assert errors_of(url) == {
        ("off", "backend", "registered_model_missing"),
        ("auto", "backend", "no_backend_available"),
    }


def test_nobody_can_say_why_of_a_model_that_is_not_there(url: str) -> None:
    reply = httpx.get(f"{url}/athena/why", params={"model": MISSPELT})
    assert (reply.status_code, reply.json()["error"]["message"]) == (404, SAID)


def test_without_the_registry_nobody_knows_which_models_there_are(stack: ExitStack) -> None:
    nobody = f"http://127.0.0.1:{closed_port()}"
    url = stack.enter_context(running_proxy(nobody, NONE))
    reply = httpx.post(f"{url}/v1/chat/completions", json={"model": MISSPELT, "messages": MESSAGES})
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0
    assert "Admin API is out of reach" in reply.json()["error"]["message"]
    assert requests_of(url)["backend"] == 1
    health = httpx.get(f"{url}/health")
    assert health.status_code == 503
    assert "there is no default Ollama" in health.json()["detail"]


def test_a_registry_that_is_asked_for_one_model_at_a_time_says_that_it_is_not_there(
    stack: ExitStack, stand_in: Run
) -> None:
    async def admin(heard: Heard) -> None:
        await heard.answer(b'{"status": 404, "title": "Not found"}', status=404)

    url = stack.enter_context(running_proxy(stand_in(admin).url, NONE, token=None))
    reply = httpx.post(f"{url}/api/chat", json={"model": MISSPELT, "messages": MESSAGES})
    assert (reply.status_code, reply.json()) == (404, {"error": SAID})
    assert requests_of(url) == {"": 0, "caller": 1, "policy": 0, "backend": 0}


def test_there_is_no_ollama_whose_models_could_be_changed(url: str) -> None:
    by_token = {"authorization": f"Bearer {TOKEN}"}
    reply = httpx.post(f"{url}/api/pull", json={"model": MISSPELT}, headers=by_token)
    assert (reply.status_code, reply.json()) == (400, {"error": "There is no Ollama whose models could be changed."})
    reply = httpx.post(
        f"{url}/api/pull", json={"model": MISSPELT}, headers={**by_token, "x-athena-backend-id": "default"}
    )
    assert reply.json()["error"].endswith("no Ollama is called 'default'; there are none.")
