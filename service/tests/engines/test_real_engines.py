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
