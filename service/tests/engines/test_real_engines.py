import httpx
import pytest

from tests.engines.server import EngineServer

pytestmark = pytest.mark.engine


@pytest.fixture(params=["ollama_server", "mlx_server"])
def engine(request: pytest.FixtureRequest) -> EngineServer:
    server: EngineServer = request.getfixturevalue(request.param)
    return server


def test_an_engine_answers_a_question(engine: EngineServer) -> None:
    assert isinstance(engine.ask("Why is the sky blue?"), str)


def test_a_killed_engine_refuses_and_serves_again_at_the_same_address_after_a_restart(engine: EngineServer) -> None:
    before = engine.pid
    engine.kill()
    assert engine.pid is None
    with pytest.raises(OSError, match="Connect"):
        engine.ask("Anybody there?")
    engine.restart()
    assert engine.pid != before
    engine.ask("Anybody there?")


def test_ollama_lists_the_model_it_was_given(ollama_server: EngineServer) -> None:
    models = httpx.get(f"{ollama_server.url}/api/tags").json()["models"]
    assert [model["name"] for model in models] == [f"{ollama_server.model}:latest"]


def test_mlx_answers_under_the_path_of_its_model(mlx_server: EngineServer) -> None:
    request = {"model": mlx_server.model, "prompt": "a", "max_tokens": 2}
    assert httpx.post(f"{mlx_server.url}/v1/completions", json=request).json()["usage"]["completion_tokens"] == 2


def test_mlx_tells_no_probabilities_in_a_stream_and_otherwise_not_those_of_what_it_wrote(
    mlx_server: EngineServer,
) -> None:
    """Why `logprobs` is refused for it by name: a reply is read as a stream, and the rest is not what callers mean."""
    asked = {
        "model": mlx_server.model,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 4,
        "logprobs": True,
    }
    url = f"{mlx_server.url}/v1/chat/completions"
    streamed = httpx.post(url, json={**asked, "top_logprobs": 2, "stream": True}, timeout=60).text
    assert "[DONE]" in streamed
    assert "logprob" not in streamed
    (choice,) = httpx.post(url, json=asked, timeout=60).json()["choices"]
    assert [set(token) for token in choice["logprobs"]["content"]] == [{"id", "logprob"}] * 4, "no word of the text"
    (choice,) = httpx.post(url, json={**asked, "top_logprobs": 2}, timeout=60).json()["choices"]
    for token in choice["logprobs"]["content"]:
        assert token["token"] == token["top_logprobs"][0]["token"], "one of the likeliest, whichever was written"
