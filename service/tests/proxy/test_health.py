"""Health and metrics, as an operator reads them."""

from contextlib import ExitStack

import httpx

from tests.proxy.conftest import Run, StartProxy, closed_port, running_proxy
from tests.proxy.engines import ollama_engine, openai_engine
from tests.proxy.standin import Heard, backend

NOBODY = "http://127.0.0.1:{}"


def test_a_proxy_with_a_registry_is_healthy(http: httpx.Client) -> None:
    reply = http.get("/health")
    assert reply.status_code == 200
    health = reply.json()
    assert health["status"] == "healthy"
    assert health["components"] == {"configuration": "healthy", "llm_router": "healthy"}


def test_without_admin_api_the_default_ollama_serves_and_health_says_so(stack: ExitStack, stand_in: Run) -> None:
    url = stack.enter_context(running_proxy(NOBODY.format(closed_port()), stand_in(ollama_engine).url))
    health = httpx.get(url + "/health")
    assert health.status_code == 200
    assert health.json()["status"] == "degraded"
    assert "out of reach" in health.json()["detail"]
    assert httpx.get(url + "/api/tags").json()["models"][0]["name"] == "tiny:latest"
    reply = httpx.post(url + "/api/generate", json={"model": "tiny:latest", "prompt": "Once", "stream": False})
    assert reply.json()["response"] == "Hello there, caller."


def test_with_nothing_to_serve_from_health_is_503(stack: ExitStack) -> None:
    url = stack.enter_context(running_proxy(NOBODY.format(closed_port()), NOBODY.format(closed_port())))
    health = httpx.get(url + "/health")
    assert health.status_code == 503
    assert health.json()["components"] == {"configuration": "degraded", "llm_router": "unhealthy"}
    assert httpx.get(url + "/livez").status_code == 200
    assert httpx.get(url + "/v1/models").json()["data"] == []


def test_a_hanging_default_ollama_does_not_hold_up_the_list_of_models(stand_in: Run, proxy_for: StartProxy) -> None:
    async def hangs(heard: Heard) -> None:
        await heard.wait_until_left()

    url = proxy_for(backend("m", "openai", "http://127.0.0.1:9"), ollama_url=stand_in(hangs).url)
    reply = httpx.get(url + "/v1/models", timeout=3)
    assert [model["id"] for model in reply.json()["data"]] == ["m"]


def test_without_a_token_the_list_says_that_it_is_incomplete(stack: ExitStack, stand_in: Run) -> None:
    async def admin(heard: Heard) -> None:
        await heard.answer(b'{"status": 404, "title": "Not found"}', status=404)

    proxy = running_proxy(stand_in(admin).url, stand_in(ollama_engine).url, token=None)
    reply = httpx.get(stack.enter_context(proxy) + "/v1/models")
    assert reply.headers["x-athena-models"] == "incomplete"
    assert [model["id"] for model in reply.json()["data"]] == ["tiny:latest"]


def test_metrics_name_known_models_only_and_errors_by_their_class(stand_in: Run, proxy_for: StartProxy) -> None:
    url = proxy_for(backend("known", "openai", stand_in(openai_engine).url), ollama_url=stand_in(ollama_engine).url)
    messages = [{"role": "user", "content": "Hi"}]
    with httpx.Client(base_url=url) as client:
        client.post("/v1/chat/completions", json={"model": "known", "messages": messages})
        client.post("/api/chat", json={"model": "known", "messages": messages})
        client.post("/api/generate", json={"model": "made-up", "prompt": "Once"})
        client.post("/api/generate", content=b"{")
        metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    text = metrics.text
    labels = 'gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_request_model="known"'
    whole = f'backend_id="1",error_group="",error_type="",{labels}'
    assert f"gen_ai_server_request_duration_seconds_count{{{whole}}} 2.0" in text
    assert f'gen_ai_server_time_to_first_token_seconds_count{{backend_id="1",{labels}}} 1.0' in text
    usage = f'gen_ai_client_token_usage_sum{{backend_id="1",{labels},gen_ai_token_type="output"}} 10.0'
    assert usage in text
    assert "made-up" not in text
    assert 'backend_id="",error_group="caller",error_type="request_rejected"' in text
    assert "athena_configuration_version 1.0" in text
    assert "athena_configuration_reachable 1.0" in text


def test_health_shows_the_backends_that_were_asked_for(stand_in: Run, proxy_for: StartProxy) -> None:
    url = proxy_for(
        backend("m", "openai", "http://127.0.0.1:9", priority=0),
        backend("m", "openai", stand_in(openai_engine).url, priority=1, max_concurrency=3),
    )
    messages = [{"role": "user", "content": "Hi"}]
    for _ in range(5):
        assert httpx.post(f"{url}/v1/chat/completions", json={"model": "m", "messages": messages}).status_code == 200
    shown = {one["id"]: one for one in httpx.get(f"{url}/health").json()["backends"]}
    assert shown[1]["state"] == "open"
    assert shown[1]["reason"]
    assert shown[2]["state"] == "closed"
    assert (shown[2]["limit"], shown[2]["in_use"], shown[2]["queued"]) == (3, 0, 0)
