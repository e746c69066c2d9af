"""Why a real `mlx_lm.server` hears no model name but one, and no template argument but a few."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from athena.router.engines import ENGINES
from athena.router.errors import FailureKind
from athena.router.types import BackendType
from tests.engines.server import EngineServer

pytestmark = pytest.mark.engine

CHAT = {"model": "default_model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": True}


def ask(server: EngineServer, **fields: Any) -> httpx.Response:
    body = json.dumps(CHAT | fields).encode()
    return httpx.post(f"{server.url}/v1/chat/completions", content=body, timeout=60)


@pytest.mark.parametrize(
    "arguments", [{"chat_template": ""}, {"truncation": True, "max_length": 0}], ids=["no template", "no length"]
)
def test_a_template_that_leaves_no_prompt_ends_the_server_until_it_is_restarted(
    mlx_server: EngineServer, arguments: dict[str, Any]
) -> None:
    try:
        assert "[DONE]" not in ask(mlx_server, chat_template_kwargs=arguments).text
        with pytest.raises(OSError, match="completions"):
            mlx_server.ask("Anybody there?")
    finally:
        mlx_server.restart()


def test_an_argument_of_the_templates_filler_is_a_failure_to_start(mlx_server: EngineServer) -> None:
    reply = ask(mlx_server, chat_template_kwargs={"tokenize": False})
    assert reply.status_code == 404
    mlx_server.ask("Still there?")


def test_an_unknown_model_is_404_and_costs_the_loaded_model(mlx_server: EngineServer) -> None:
    folder = Path(mlx_server.model)
    away = folder.with_name("away")
    assert ask(mlx_server).status_code == 200
    folder.rename(away)  # what is loaded needs it no more; what is loaded again does
    try:
        assert ask(mlx_server).status_code == 200
        unknown = ask(mlx_server, model="no-such/model")
        error = ENGINES[BackendType.MLX].failure(unknown.status_code, unknown.content)
        assert error is not None
        assert (error.upstream_status, error.kind) == (404, FailureKind.STATUS)
        assert ask(mlx_server).status_code == 404
    finally:
        away.rename(folder)
        mlx_server.restart()
    assert ask(mlx_server).status_code == 200
