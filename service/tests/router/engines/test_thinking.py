"""How a caller's wish that the model think reaches each engine."""

from typing import Any

import pytest

from athena.router.call import Call
from athena.router.engines import ENGINES
from athena.router.errors import RequestRejectedError
from athena.router.types import BackendType, Operation
from tests.router.engines.test_rendering import BACKEND, CHAT, GENERATE, ollama, openai, sent, unsuitable


@pytest.mark.parametrize(
    ("asked", "arguments"),
    [
        (openai(CHAT | {"reasoning_effort": "none"}), {"enable_thinking": False}),
        (openai(CHAT | {"reasoning_effort": "low"}), {"enable_thinking": True, "reasoning_effort": "low"}),
        (ollama(CHAT | {"think": "high"}), {"enable_thinking": True, "reasoning_effort": "high"}),
        (
            openai(CHAT | {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}),
            {"enable_thinking": False, "reasoning_effort": "low"},
        ),
    ],
)
def test_a_template_of_mlx_hears_how_much_to_think(asked: Call, arguments: dict[str, Any]) -> None:
    body = sent(BackendType.MLX, asked)
    assert body["chat_template_kwargs"] == arguments
    assert "reasoning_effort" not in body


@pytest.mark.parametrize(("effort", "think"), [("none", False), ("minimal", True), ("high", True)])
def test_ollama_hears_whether_to_think(effort: str, think: bool) -> None:
    assert sent(BackendType.OLLAMA, openai(CHAT | {"reasoning_effort": effort}))["think"] is think


@pytest.mark.parametrize(
    ("think", "heard"),
    [
        (True, {"chat_template_kwargs": {"enable_thinking": True}}),
        (False, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("low", {"reasoning_effort": "low"}),
    ],
)
def test_an_openai_server_hears_whether_to_think_and_how_much(think: bool | str, heard: dict[str, Any]) -> None:
    body = sent(BackendType.OPENAI, ollama(CHAT | {"think": think}))
    assert {name: body[name] for name in ("chat_template_kwargs", "reasoning_effort") if name in body} == heard


@pytest.mark.parametrize("engine", [BackendType.MLX, BackendType.OPENAI])
def test_a_prompt_that_is_continued_leaves_no_room_to_think(engine: BackendType) -> None:
    assert "think" in unsuitable(engine, ollama(GENERATE | {"think": True}, Operation.GENERATE))
    assert sent(engine, ollama(GENERATE | {"think": False}, Operation.GENERATE))["prompt"] == "Once"


@pytest.mark.parametrize(
    ("engine", "asked"),
    [
        (BackendType.MLX, openai(CHAT | {"reasoning_effort": "hard"})),
        (BackendType.OLLAMA, openai(CHAT | {"reasoning_effort": 5})),
        (BackendType.MLX, ollama(CHAT | {"think": 5})),
        (BackendType.OPENAI, ollama(CHAT | {"think": "hard"})),
    ],
)
def test_a_way_to_think_that_nobody_knows_is_refused_by_name(engine: BackendType, asked: Call) -> None:
    with pytest.raises(RequestRejectedError) as refusal:
        ENGINES[engine].render(asked, BACKEND)
    assert refusal.value.field in asked.request.extra
