"""Embeddings by the official clients, with every engine type behind."""

import json
from typing import Any

import httpx
import ollama
import openai
import pytest

from tests.proxy.conftest import Run, StartProxy
from tests.proxy.engines import USAGE
from tests.proxy.standin import Heard, backend

VECTORS = [[0.5, -0.25], [1.0, 0.0]]
TEXTS = ["Once", "Twice"]


async def serve(heard: Heard) -> None:
    """Answer as Ollama on its paths, and as a server of OpenAI's API on the other; the last vector first."""
    said = heard.json.get("input", heard.json.get("prompt"))
    vectors = VECTORS[: len(said)] if isinstance(said, list) else VECTORS[:1]
    if heard.path == "/v1/embeddings":
        data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        usage = {"prompt_tokens": 4, "total_tokens": 4}
        reply: dict[str, Any] = {"object": "list", "data": data[::-1], "model": "x", "usage": usage}
    elif heard.path == "/api/embed":
        reply = {"model": "x", "embeddings": vectors, "prompt_eval_count": 4}
    else:
        assert heard.path == "/api/embeddings"
        reply = {"embedding": vectors[0]}
    await heard.answer(json.dumps(reply).encode())


@pytest.fixture(params=["openai", "ollama"])
def url(request: pytest.FixtureRequest, stand_in: Run, proxy_for: StartProxy) -> str:
    """A proxy with one engine behind it."""
    return proxy_for(backend("m", request.param, stand_in(serve).url))


def test_the_openai_client_gets_the_vectors_in_order(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        for form in (openai.omit, "float"):
            reply = client.embeddings.create(model="m", input=TEXTS, encoding_format=form)
            assert [vector.embedding for vector in sorted(reply.data, key=lambda v: v.index)] == VECTORS
            assert reply.usage.prompt_tokens == 4
        assert client.embeddings.create(model="m", input="Once").data[0].embedding == VECTORS[0]


def test_vectors_in_base64_are_passed_on_as_an_engine_writes_them(stand_in: Run, proxy_for: StartProxy) -> None:
    """The official client asks for them unless it is told otherwise."""

    async def writes_base64(heard: Heard) -> None:
        assert heard.json["encoding_format"] == "base64"
        data = [{"object": "embedding", "index": 0, "embedding": "AAAAPwAAgL4="}]
        await heard.answer(json.dumps({"object": "list", "data": data, "model": "x", "usage": USAGE}).encode())

    url = proxy_for(backend("m", "openai", stand_in(writes_base64).url))
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        assert client.embeddings.create(model="m", input="Once").data[0].embedding == VECTORS[0]


def test_the_ollama_client_gets_the_vectors(url: str) -> None:
    client = ollama.Client(host=url)
    reply = client.embed(model="m", input=TEXTS)
    assert [list(vector) for vector in reply.embeddings] == VECTORS
    assert reply.prompt_eval_count == 4
    assert list(client.embeddings(model="m", prompt="Once").embedding) == VECTORS[0]
    client._client.close()


def test_what_has_no_embeddings_is_refused_by_name(stand_in: Run, proxy_for: StartProxy) -> None:
    url = proxy_for(backend("m", "mlx", stand_in(serve).url))
    reply = httpx.post(f"{url}/v1/embeddings", json={"model": "m", "input": "Once"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, "input")
    assert "makes no embeddings" in httpx.post(f"{url}/api/embed", json={"model": "m", "input": "x"}).json()["error"]


@pytest.mark.parametrize(
    ("path", "fields", "said"),
    [
        ("/v1/embeddings", {"input": [[1, 2]]}, (400, "input")),
        ("/v1/embeddings", {"input": []}, (400, "input")),
        ("/v1/embeddings", {"input": "Once", "dimensions": 8}, (422, "dimensions")),
        ("/api/embed", {}, (400, "input")),
    ],
)
def test_a_wrong_field_is_named(
    stand_in: Run, proxy_for: StartProxy, path: str, fields: dict[str, Any], said: tuple[int, str]
) -> None:
    url = proxy_for(backend("m", "ollama", stand_in(serve).url))
    reply = httpx.post(url + path, json={"model": "m", **fields})
    status, field = said
    assert reply.status_code == status
    error = reply.json()["error"]
    assert field in (error["param"] if isinstance(error, dict) else error)


@pytest.mark.parametrize("kind", ["openai", "ollama"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/api/embeddings"])
@pytest.mark.parametrize(
    "body", [b'{"data": [], "embeddings": []}', b'{"embedding": []}', b'{"data": [{"embedding": []}]}']
)
def test_a_reply_without_a_vector_moves_to_the_next_backend(
    stand_in: Run, proxy_for: StartProxy, path: str, kind: str, body: bytes
) -> None:
    async def empty(heard: Heard) -> None:
        await heard.answer(body)

    url = proxy_for(
        backend("m", kind, stand_in(empty).url, priority=0), backend("m", kind, stand_in(serve).url, priority=1)
    )
    reply = httpx.post(url + path, json={"model": "m", "prompt" if path == "/api/embeddings" else "input": "Once"})
    assert reply.status_code == 200
    assert "0.5" in reply.text


@pytest.mark.parametrize(("path", "kind"), [("/v1/embeddings", "ollama"), ("/api/embed", "openai")])
def test_a_reply_with_too_few_vectors_moves_to_the_next_backend(
    stand_in: Run, proxy_for: StartProxy, path: str, kind: str
) -> None:
    async def one(heard: Heard) -> None:
        await heard.answer(b'{"data": [{"embedding": [0.1]}]}' if kind == "openai" else b'{"embeddings": [[0.1]]}')

    url = proxy_for(
        backend("m", kind, stand_in(one).url, priority=0), backend("m", kind, stand_in(serve).url, priority=1)
    )
    reply = httpx.post(url + path, json={"model": "m", "input": TEXTS})
    assert "0.5" in reply.text


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [("/api/embed", "input", b'{"model": "m", "embeddings": []}'), ("/api/embeddings", "prompt", b'{"embedding": []}')],
)
def test_an_ollama_that_loads_a_model_by_an_empty_text_has_served(
    stand_in: Run, proxy_for: StartProxy, path: str, field: str, body: bytes
) -> None:
    async def loads(heard: Heard) -> None:
        await heard.answer(body)

    url = proxy_for(backend("m", "ollama", stand_in(loads).url))
    reply = httpx.post(url + path, json={"model": "m", field: ""})
    assert (reply.status_code, reply.content) == (200, body)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"", b'{"data": [{"embedding": "x"}]}'])
def test_a_reply_without_embeddings_is_no_reply(stand_in: Run, proxy_for: StartProxy, body: bytes) -> None:
    async def nonsense(heard: Heard) -> None:
        await heard.answer(body)

    for engine in ("openai", "ollama"):
        url = proxy_for(backend("m", engine, stand_in(nonsense).url))
        assert httpx.post(f"{url}/v1/embeddings", json={"model": "m", "input": "Once"}).status_code == 503
