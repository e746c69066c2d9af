"""Stand-in engines that behave: enough of OpenAI's and Ollama's servers to be told apart from nothing by a client."""

import asyncio
import json
from typing import Any

from tests.proxy.standin import Heard

REPLY = ("Hello", " there", ",", " caller", ".")


def sse(value: Any) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def openai_chunk(heard: Heard, delta: dict[str, Any] | str, finish: str | None = None) -> dict[str, Any]:
    """Return one chunk of a stream, for chat or for a completion."""
    chat = heard.path.endswith("/chat/completions")
    content = {"delta": {"content": delta} if isinstance(delta, str) else delta} if chat else {"text": delta or ""}
    return {
        "id": "x-1",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": 1_700_000_000,
        "model": heard.json["model"],
        "choices": [{"index": 0, "finish_reason": finish, **content}],
    }


def openai_whole(heard: Heard, text: str) -> bytes:
    """Return a whole reply."""
    chat = heard.path.endswith("/chat/completions")
    content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    reply = {
        "id": "x-1",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1_700_000_000,
        "model": heard.json["model"],
        "choices": [{"index": 0, "finish_reason": "stop", **content}],
        "usage": USAGE,
    }
    return json.dumps(reply).encode()


USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def _vectors(heard: Heard) -> list[list[float]]:
    """Return a vector for each text, as engines do."""
    texts = heard.json.get("input", "")
    return [[0.5, -0.25]] * max(len(texts) if isinstance(texts, list) else 1, 1)


async def openai_engine(heard: Heard) -> None:
    """Serve like vLLM."""
    if heard.path == "/v1/embeddings":
        data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(_vectors(heard))]
        await heard.answer(json.dumps({"object": "list", "data": data, "model": "x", "usage": USAGE}).encode())
        return
    if not heard.json.get("stream"):
        await heard.answer(openai_whole(heard, "".join(REPLY)))
        return
    options = heard.json.get("stream_options") or {}
    if not isinstance(options, dict):
        await heard.answer(b'{"error": {"message": "stream_options: must be an object"}}', status=400)
        return
    await heard.start("text/event-stream; charset=utf-8")
    for piece in REPLY:
        await heard.chunk(sse(openai_chunk(heard, piece)))
        await asyncio.sleep(0)
    await heard.chunk(sse(openai_chunk(heard, {} if "chat" in heard.path else "", "stop")))
    if options.get("include_usage"):
        await heard.chunk(sse({**openai_chunk(heard, ""), "choices": [], "usage": USAGE}))
    await heard.chunk(b"data: [DONE]\n\n")
    await heard.end()


def ollama_line(heard: Heard, text: str, **more: Any) -> bytes:
    """Return one line of a stream, or a whole reply."""
    content = {"message": {"role": "assistant", "content": text}} if heard.path == "/api/chat" else {"response": text}
    line = {"model": heard.json["model"], "created_at": "2026-01-01T00:00:00.000000Z", **content, "done": False, **more}
    return json.dumps(line).encode() + b"\n"


OLLAMA_END = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 9_000_000,
    "load_duration": 1_000_000,
    "prompt_eval_count": 7,
    "prompt_eval_duration": 2_000_000,
    "eval_count": 5,
    "eval_duration": 6_000_000,
}
OLLAMA_TAGS = {
    "models": [
        {
            "name": "tiny:latest",
            "model": "tiny:latest",
            "modified_at": "2026-01-02T03:04:05.123456789Z",
            "size": 12345,
            "digest": "ab" * 32,
            "details": {
                "parent_model": "",
                "format": "gguf",
                "family": "llama",
                "families": ["llama"],
                "parameter_size": "1M",
                "quantization_level": "F16",
            },
        }
    ]
}


async def ollama_engine(heard: Heard) -> None:
    """Serve like Ollama."""
    if heard.path == "/api/tags":
        await heard.answer(json.dumps(OLLAMA_TAGS).encode())
    elif heard.path == "/api/embed":
        await heard.answer(json.dumps({"model": "x", "embeddings": _vectors(heard), "prompt_eval_count": 7}).encode())
    elif heard.path == "/api/embeddings":
        await heard.answer(b'{"embedding": [0.5, -0.25]}')
    elif heard.path not in {"/api/chat", "/api/generate"}:
        await heard.answer(b"404 page not found", status=404, content_type="text/plain")
    elif heard.json.get("stream", True):
        await heard.start("application/x-ndjson")
        for piece in REPLY:
            await heard.chunk(ollama_line(heard, piece))
            await asyncio.sleep(0)
        await heard.chunk(ollama_line(heard, "", **OLLAMA_END))
        await heard.end()
    else:
        await heard.answer(ollama_line(heard, "".join(REPLY), **OLLAMA_END))


async def hangs(heard: Heard) -> None:
    """Answer nothing."""
    await heard.wait_until_left()


async def hangs_in_its_stream(heard: Heard) -> None:
    """Give one token, and nothing after it."""
    if heard.path.startswith("/api/"):
        await heard.start("application/x-ndjson")
        await heard.chunk(ollama_line(heard, "one"))
    else:
        await heard.start("text/event-stream")
        await heard.chunk(sse(openai_chunk(heard, "one")))
    await heard.wait_until_left()
