"""LangChain's and LlamaIndex's integrations for both APIs, unchanged, with real engines behind the proxy."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.engines.fixtures import integrations_environment
from tests.proxy.conftest import Served

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

ASK = Path(__file__).parents[1] / "integrations" / "ask.py"
CHATS = ["langchain-openai", "langchain-ollama", "llama-index-llms-openai-like", "llama-index-llms-ollama"]
COMPLETIONS = [
    "langchain-openai completions",
    "llama-index-llms-openai-like completions",
    "llama-index-llms-ollama completions",
]
# Whatever they would fetch from elsewhere is out of reach.
LOCAL_ONLY = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found(served: Served) -> Found:
    """What each integration got of the proxy."""
    python = integrations_environment() / "bin" / "python"
    asked = subprocess.run(
        [python, ASK, served.url, served.model],
        env=os.environ | LOCAL_ONLY,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert asked.returncode == 0, asked.stderr
    answered: Found = json.loads(asked.stdout)
    return answered


@pytest.mark.parametrize("integration", CHATS)
def test_a_chat_comes_whole_and_in_pieces_at_once_and_later(found: Found, integration: str) -> None:
    told = found[integration]
    assert told["text"]
    assert "".join(told["pieces"]).strip() == told["text"].strip()
    assert told["later"]["text"] == told["text"]
    assert told["later"]["pieces"] == told["pieces"]


@pytest.mark.parametrize("integration", ["langchain-openai", "langchain-ollama"])
def test_tokens_are_counted_whole_and_in_pieces(found: Found, integration: str) -> None:
    told = found[integration]
    assert 1 <= told["tokens"] <= 8
    assert told["streamed_tokens"] == told["tokens"]


@pytest.mark.parametrize("integration", COMPLETIONS)
def test_a_prompt_is_continued_whole_and_in_pieces(served: Served, found: Found, integration: str) -> None:
    told = found[integration]
    if (served.kind, integration) == ("openai", "langchain-openai completions"):
        # It sends a list with one prompt, which Ollama's own OpenAI side does not take.
        assert told["status"] == 400
        assert "CompletionRequest.prompt" in told["words"]
        return
    assert told["text"]
    assert "".join(told["pieces"]).strip() == told["text"].strip()


@pytest.mark.parametrize("integration", CHATS)
def test_a_tool_is_offered_or_its_lack_is_told(served: Served, found: Found, integration: str) -> None:
    """The tiny model of Ollama has no template for tools; that of MLX takes them."""
    told = found[integration]["tools"]
    if served.kind == "mlx":
        assert told == {"answered": True}
    else:
        assert told["status"] == 422
        assert "tools" in told["words"]


@pytest.mark.parametrize("integration", ["langchain-openai", "langchain-ollama"])
def test_a_wanted_form_is_heard_or_its_lack_is_told(served: Served, found: Found, integration: str) -> None:
    told = found[integration]["form"]
    if served.kind == "mlx":
        assert told["status"] == 422
        assert "would ignore the response format" in told["words"]
    else:
        # The bound on the tokens may cut the form off, which LangChain takes ill.
        assert told.get("answered") or told["error"] == "LengthFinishReasonError"


def test_llama_index_learns_the_context_of_the_model(served: Served, found: Found) -> None:
    if served.kind == "ollama":
        assert found["llama-index-llms-ollama"]["context"] == 2048
