"""Ask a proxy by LangChain's and LlamaIndex's integrations, each in every way, and print what they got as JSON.

`python ask.py URL MODEL`, in the environment of locks/integrations.txt; it imports nothing of the project.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI, OpenAI
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai_like import OpenAILike

QUESTION = "Why is the sky blue?"
TOKENS = 8
FORM = {"title": "sky", "type": "object", "properties": {"sky": {"enum": ["blue"]}}, "required": ["sky"]}
# Of U+0085, which a random model may well write and Ollama does not escape, its client makes the end of a line.
SEED = 1

Found = dict[str, Any]


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"It rains in {city}."


def tried(ask: Callable[[], Any]) -> Found:
    """Return that an answer came, or the status and the words of the refusal."""
    return refused_or(lambda: {"answered": bool(ask())})


def refused_or(ask: Callable[[], Found]) -> Found:
    """Return what was found, or the status and the words of the refusal."""
    try:
        return ask()
    except Exception as error:  # each integration has errors of its own
        return {"error": type(error).__name__, "status": getattr(error, "status_code", None), "words": str(error)}


def langchain(model: Any) -> Found:
    """Ask by a chat model of LangChain's."""
    whole = model.invoke(QUESTION)
    chunks = list(model.stream(QUESTION))
    together = chunks[0]
    for chunk in chunks[1:]:
        together += chunk
    later = asyncio.run(_langchain_later(model))
    return {
        "text": whole.content,
        "tokens": whole.usage_metadata["output_tokens"],
        "pieces": [chunk.content for chunk in chunks],
        "streamed_tokens": (together.usage_metadata or {}).get("output_tokens"),
        "later": later,
        "tools": tried(lambda: model.bind_tools([tool(weather)]).invoke(QUESTION)),
        "form": tried(
            lambda: model.with_structured_output(FORM, method="json_schema", include_raw=True).invoke(QUESTION)
        ),
    }


async def _langchain_later(model: Any) -> Found:
    whole = await model.ainvoke(QUESTION)
    return {"text": whole.content, "pieces": [chunk.content async for chunk in model.astream(QUESTION)]}


def llama_index(model: Any) -> Found:
    """Ask by a model of LlamaIndex's that chats."""
    messages = [ChatMessage(role="user", content=QUESTION)]
    later = asyncio.run(_llama_index_later(model, messages))
    tool_of_it = FunctionTool.from_defaults(fn=weather)
    return {
        "text": model.chat(messages).message.content,
        "pieces": [piece.delta for piece in model.stream_chat(messages)],
        "later": later,
        "tools": tried(lambda: model.chat_with_tools([tool_of_it], user_msg=QUESTION)),
        "context": model.metadata.context_window,
    }


async def _llama_index_later(model: Any, messages: list[Any]) -> Found:
    whole = await model.achat(messages)
    return {
        "text": whole.message.content,
        "pieces": [piece.delta async for piece in await model.astream_chat(messages)],
    }


def completions(whole: Callable[[str], str], pieces: Callable[[str], list[str]]) -> Found:
    """Ask for the continuation of a prompt."""
    return refused_or(lambda: {"text": whole(QUESTION), "pieces": pieces(QUESTION)})


def main(url: str, model: str) -> Found:
    """Ask in every way; returns what came, by integration."""
    common = {"model": model, "temperature": 0}
    openai = {**common, "base_url": f"{url}/v1", "api_key": "unused", "max_retries": 0, "max_tokens": TOKENS}
    like = {**common, "api_base": f"{url}/v1", "api_key": "unused", "max_retries": 0, "max_tokens": TOKENS}
    told = {"num_predict": TOKENS, "seed": SEED}
    # It says `max_completion_tokens`, which Ollama's own OpenAI side does not know.
    bounded = {**openai, "extra_body": {"max_tokens": TOKENS}}
    legacy = OpenAI(**openai)
    continued = OpenAILike(**like)
    local = Ollama(**common, base_url=url, request_timeout=60.0, additional_kwargs=told)
    return {
        "langchain-openai": langchain(ChatOpenAI(**bounded, stream_usage=True)),
        "langchain-openai completions": completions(legacy.invoke, lambda prompt: list(legacy.stream(prompt))),
        "langchain-ollama": langchain(ChatOllama(**common, **told, base_url=url, validate_model_on_init=True)),
        "llama-index-llms-openai-like": llama_index(
            OpenAILike(**like, is_chat_model=True, is_function_calling_model=True)
        ),
        "llama-index-llms-openai-like completions": completions(
            lambda prompt: str(continued.complete(prompt)),
            lambda prompt: [piece.delta for piece in continued.stream_complete(prompt)],
        ),
        "llama-index-llms-ollama": llama_index(local),
        "llama-index-llms-ollama completions": completions(
            lambda prompt: str(local.complete(prompt)),
            lambda prompt: [piece.delta for piece in local.stream_complete(prompt)],
        ),
    }


if __name__ == "__main__":
    json.dump(main(*sys.argv[1:]), sys.stdout)
