"""Callers of Ollama's API that load a model before they ask, and unload it afterwards, with each engine type behind."""

import httpx
import ollama
import pytest

from tests.proxy.conftest import Run, StartProxy, closed_port
from tests.proxy.engines import ollama_engine, openai_engine
from tests.proxy.standin import Heard, backend


@pytest.mark.parametrize("kind", ["mlx", "openai"])
@pytest.mark.parametrize("keep_alive", ["10m", 0])
def test_an_engine_that_holds_its_model_has_loaded_it_before(
    stand_in: Run, proxy_for: StartProxy, kind: str, keep_alive: str | int
) -> None:
    engine = stand_in(openai_engine)
    client = ollama.Client(host=proxy_for(backend("m", kind, engine.url)))
    generated = client.generate(model="m", keep_alive=keep_alive)
    assert (generated.done, generated.done_reason, generated.response) == (True, "load", "")
    assert [part.done_reason for part in client.generate(model="m", keep_alive=keep_alive, stream=True)] == ["load"]
    chatted = client.chat(model="m", keep_alive=keep_alive)
    assert (chatted.done, chatted.done_reason, chatted.message.content) == (True, "load", "")
    client._client.close()
    assert not [heard for heard in engine.heard if not heard.json.get("messages")]


def test_an_ollama_of_the_route_loads_its_model_itself(stand_in: Run, proxy_for: StartProxy) -> None:
    asked = []

    async def loads(heard: Heard) -> None:
        asked.append(heard.json)
        await heard.answer(b'{"model": "m", "response": "", "done": true, "done_reason": "load"}')

    url = proxy_for(backend("m", "auto", stand_in(openai_engine).url), ollama_url=stand_in(loads).url)
    reply = httpx.post(f"{url}/api/generate", json={"model": "m", "keep_alive": "10m"})
    assert reply.headers["x-athena-backend"] == "ollama"
    assert [body["keep_alive"] for body in asked] == ["10m"]


def test_where_that_ollama_lacks_the_model_the_other_engine_holds_it_all_the_same(
    stand_in: Run, proxy_for: StartProxy
) -> None:
    url = proxy_for(backend("m", "auto", stand_in(openai_engine).url))  # the default Ollama is refused
    reply = httpx.post(f"{url}/api/generate", json={"model": "m"})
    assert (reply.status_code, reply.json()["done_reason"]) == (200, "load")
    assert reply.headers["x-athena-backend"] == "mlx"


def test_an_engine_that_is_out_of_service_has_loaded_nothing(stand_in: Run, proxy_for: StartProxy) -> None:
    url = proxy_for(backend("m", "mlx", f"http://127.0.0.1:{closed_port()}"))
    for _ in range(20):  # until it is out of the route
        asked = httpx.post(f"{url}/api/generate", json={"model": "m", "prompt": "Hi"})
        assert asked.status_code == 503
        reply = httpx.post(f"{url}/api/generate", json={"model": "m"})
        if reply.status_code != 200:
            break
    assert reply.status_code == 503
    assert "error" in reply.json()


def test_a_body_that_does_not_hold_is_no_load(stand_in: Run, proxy_for: StartProxy) -> None:
    url = proxy_for(backend("m", "mlx", stand_in(openai_engine).url), ollama_url=stand_in(ollama_engine).url)
    reply = httpx.post(f"{url}/api/generate", json={"model": "m", "prompt": 5})
    assert reply.status_code == 400
