"""What a stand-in engine says, in the dialect that it is asked in; every text comes from the prompt.

A prompt may end in directions to the stand-in, such as `Good morning [tokens=8 pause=0.05]`: how many tokens to write,
and how many seconds to wait before each one. They are part of the prompt, and so of every token.
"""

import json
import re
from typing import Any

TOKENS = 4
USAGE = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
OLLAMA_END = {"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 3, "eval_duration": 30_000_000}
_DIRECTIONS = re.compile(r"\[([a-z0-9=. ]+)\]$")


def directions(prompt: str) -> tuple[int, float]:
    """Return how many tokens a prompt asks for, and the pause before each one in seconds."""
    found = _DIRECTIONS.search(prompt)
    given = dict(pair.split("=", 1) for pair in found[1].split()) if found else {}
    return int(given.get("tokens", TOKENS)), float(given.get("pause", 0))


def reply_to(prompt: str) -> list[str]:
    """Return the tokens of the right reply to a prompt."""
    return [f"{prompt}-{number} " for number in range(directions(prompt)[0])]


class Question:
    """One request for a reply, and the pieces of answers to it."""

    def __init__(self, path: str, body: bytes) -> None:
        asked = json.loads(body)
        content = asked["messages"][-1]["content"] if "messages" in asked else asked.get("prompt", "")
        self.path = path
        self.ollama = path.startswith("/api/")
        self.chat = path.endswith(("/chat", "/chat/completions"))
        self.model: str = asked.get("model", "")
        self.prompt: str = content if isinstance(content, str) else json.dumps(content)
        self.stream = bool(asked.get("stream", self.ollama))
        self.content_type = "application/x-ndjson" if self.ollama else "text/event-stream"

    def piece(self, text: str, **more: Any) -> bytes:
        """Return one piece of a stream."""
        if self.ollama:
            content = {"message": {"role": "assistant", "content": text}} if self.chat else {"response": text}
            return _line({"model": self.model, **content, "done": False} | more)
        choice: dict[str, Any] = {"index": 0, "finish_reason": None}
        choice |= {"delta": {"content": text}} if self.chat else {"text": text}
        return _event({"id": "1", "model": self.model, "choices": [choice | more]})

    def end(self) -> bytes:
        """Return the proper end of a stream."""
        if self.ollama:
            return self.piece("", **OLLAMA_END)
        usage = _event({"id": "1", "model": self.model, "choices": [], "usage": USAGE})
        return self.piece("", finish_reason="stop") + usage + b"data: [DONE]\n\n"

    def whole(self, text: str) -> bytes:
        """Return a reply that is no stream."""
        if self.ollama:
            return self.piece(text, **OLLAMA_END)
        content = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, "finish_reason": "stop"} | content
        return json.dumps({"id": "1", "model": self.model, "choices": [choice], "usage": USAGE}).encode()


def head(status: int, content_type: str, *fields: str) -> bytes:
    """Return the head of an answer."""
    return "\r\n".join((f"HTTP/1.1 {status} X", f"content-type: {content_type}", *fields, "\r\n")).encode()


def chunk(data: bytes) -> bytes:
    """Return one chunk of the chunked coding; no data: its end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
