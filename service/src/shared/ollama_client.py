"""The client that programs used before there was a router; it goes through the router now.

A model that the registry gives to another engine is answered by that one, in Ollama's reply shape all the same.
"""

import warnings
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

from athena.router.llm_router import LLMRouter
from athena.router.types import Delta, Event, Sampling
from athena.settings import RouterSettings

_OPTIONS = {"num_predict": "max_tokens"}  # Ollama's names of what the router calls otherwise


class OllamaClient:
    """Deprecated: use `shared.llm_router.get_llm_router()`, whose `generate`, `chat` and `stream` replace this class's.

    `url` is the Ollama of every model that has no backend of its own; without it, `OLLAMA_URL`. Replies are dicts as
    Ollama sends them: `reply["message"]["content"]` of a chat, `reply["response"]` of a generate, with `model`,
    `created_at`, `done`, `done_reason`, `total_duration` (ns), `prompt_eval_count` and `eval_count`. With `stream=True`
    the method returns an asynchronous iterator of such dicts, the last one with `done` true.
    """

    def __init__(self, url: str | None = None) -> None:
        warnings.warn(
            "shared.ollama_client.OllamaClient is replaced by shared.llm_router.get_llm_router()",
            DeprecationWarning,
            stacklevel=2,
        )
        self._router = LLMRouter(RouterSettings(ollama_url=url) if url is not None else None)

    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        temperature: float | None = None,
        max_tokens: int | None = None,
        *,
        stream: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the answer to a conversation, or an iterator over its pieces; raises what the router's `chat` does."""
        sampling = _sampling(temperature, max_tokens, options)
        if stream:
            return self._pieces(_chat_piece, model, messages=messages, **sampling)
        result = await self._router.chat(model=model, messages=messages, **sampling)
        return _whole(result) | {"message": result["message"]}

    async def generate(
        self,
        model: str,
        prompt: str,
        temperature: float | None = None,
        max_tokens: int | None = None,
        *,
        system: str | None = None,
        stream: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the continuation of a prompt, or an iterator over its pieces; raises what the router's does."""
        sampling = _sampling(temperature, max_tokens, options)
        if stream:
            return self._pieces(_text_piece, model, prompt=prompt, system=system, **sampling)
        result = await self._router.generate(model=model, prompt=prompt, system=system, **sampling)
        return _whole(result) | {"response": result["response"]}

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        await self._router.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _pieces(self, piece: Any, model: str, **arguments: Any) -> AsyncGenerator[dict[str, Any]]:
        events: AsyncGenerator[Event] = self._router.stream(model=model, events=True, **arguments)
        try:
            async for event in events:
                head = {"model": model, "created_at": _now()}
                if isinstance(event, Delta):
                    yield head | piece(event.text) | {"done": False}
                else:
                    counts = {
                        "prompt_eval_count": event.usage.prompt_tokens,
                        "eval_count": event.usage.completion_tokens,
                    }
                    yield head | piece("") | {"done": True, "done_reason": event.reason} | counts
        finally:
            await events.aclose()


def _chat_piece(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


def _text_piece(text: str) -> dict[str, Any]:
    return {"response": text}


def _sampling(temperature: float | None, max_tokens: int | None, options: Mapping[str, Any] | None) -> dict[str, Any]:
    given = {_OPTIONS.get(name, name): value for name, value in (options or {}).items()}
    known = {name: value for name, value in given.items() if name in Sampling.__struct_fields__}
    others = {name: value for name, value in given.items() if name not in known}
    named = {"temperature": temperature, "max_tokens": max_tokens}
    said = known | {name: value for name, value in named.items() if value is not None}
    return said | {"extra": {"options": others}} if others else said


def _whole(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": result["model"],
        "created_at": _now(),
        "done": True,
        "done_reason": result["finish_reason"],
        "total_duration": int(result["latency_ms"] * 1_000_000),
        "prompt_eval_count": result["prompt_tokens"],
        "eval_count": result["completion_tokens"],
    }


def _now() -> str:
    return datetime.now(UTC).isoformat()
