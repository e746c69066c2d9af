"""Engines on raw sockets, in the test's own event loop: one that serves, and many that fail in the ways engines do.

`async with StandIn(serve) as engine:` listens on a free port of 127.0.0.1; `engine.behaviour` can be changed while it
runs. Every text that `serve` writes comes from the prompt that it was asked, so that mixed-up replies are found.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Self

from tests.support.standin import Connections, Request

OLLAMA_END = {"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 3, "eval_duration": 30_000_000}
USAGE = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


class Asked(Request):
    """One request of a router's."""

    @property
    def ollama(self) -> bool:
        """Whether it came on one of Ollama's own paths."""
        return self.path.startswith("/api/")

    @property
    def prompt(self) -> str:
        """The prompt, or the content of the last message."""
        asked = self.json
        content = asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"]
        return content if isinstance(content, str) else json.dumps(content)

    async def answer(self, status: int, body: bytes, content_type: str = "application/json", more: str = "") -> None:
        """Send a whole answer."""
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
        await self.send(head.encode() + body)

    async def start(self, content_type: str | None = None) -> None:
        """Open a chunked answer."""
        content_type = content_type or ("application/x-ndjson" if self.ollama else "text/event-stream")
        await self.send(
            f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        )

    def piece(self, text: str, **more: Any) -> bytes:
        """Return one piece of a stream in the dialect of the path; no piece ends a chunk in the middle."""
        model = self.json["model"]
        if self.path == "/api/chat":
            return _line({"model": model, "message": {"role": "assistant", "content": text}, "done": False} | more)
        if self.path == "/api/generate":
            return _line({"model": model, "response": text, "done": False} | more)
        choice: dict[str, Any] = {"index": 0, "finish_reason": None}
        choice |= {"delta": {"content": text}} if self.path.endswith("/chat/completions") else {"text": text}
        return _event({"id": "1", "model": model, "choices": [choice | more]})

    def end(self) -> bytes:
        """Return the proper end of a stream."""
        if self.ollama:
            return self.piece("", **OLLAMA_END)
        usage = _event({"id": "1", "model": self.json["model"], "choices": [], "usage": USAGE})
        return self.piece("", finish_reason="stop") + usage + b"data: [DONE]\n\n"

    def whole(self, text: str) -> bytes:
        """Return a reply that is no stream."""
        if self.ollama:
            return self.piece(text, **OLLAMA_END)
        content = (
            {"message": {"role": "assistant", "content": text}}
            if self.path.endswith("/chat/completions")
            else {"text": text}
        )
        choice = {"index": 0, "finish_reason": "stop"} | content
        return json.dumps({"id": "1", "model": self.json["model"], "choices": [choice], "usage": USAGE}).encode()

    def wants_stream(self) -> bool:
        """Whether a stream is asked for, by the default of the dialect where nothing is said."""
        return bool(self.json.get("stream", self.ollama))


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def reply_to(prompt: str) -> list[str]:
    """Return what `serve` says to a prompt, in its three pieces."""
    return ["You said: ", prompt, "."]


Behaviour = Callable[[Asked], Awaitable[None]]


async def serve(asked: Asked) -> None:
    """Answer properly, as a stream or whole, on a connection that is kept."""
    texts = reply_to(asked.prompt)
    if not asked.wants_stream():
        await asked.answer(200, asked.whole("".join(texts)))
        return
    await asked.start()
    for text in texts:
        await asked.chunk(asked.piece(text))
        await asyncio.sleep(0)
    await asked.chunk(asked.end())
    await asked.send(b"0\r\n\r\n")


async def serve_like_mlx(asked: Asked) -> None:
    """Answer properly, but in HTTP/1.0, with nothing but the end of the connection to end the reply."""
    texts = reply_to(asked.prompt)
    await asked.send(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: keepalive 1/2\n\n")
    for text in texts:
        await asked.send(asked.piece(text))
    await asked.send(asked.end())
    asked.writer.close()


async def hang(asked: Asked) -> None:
    """Take the request and never answer."""
    await asked.until_left()


async def hang_after_first_token(asked: Asked) -> None:
    """Open a stream, write one token, and say no more."""
    await asked.start()
    await asked.chunk(asked.piece("You "))
    await asked.until_left()


async def hang_before_first_token(asked: Asked) -> None:
    """Open a stream and write no token."""
    await asked.start()
    await asked.until_left()


async def close_before_answer(asked: Asked) -> None:
    """Close the connection without a byte."""
    asked.writer.close()


async def reset_before_answer(asked: Asked) -> None:
    """Reset the connection without a byte."""
    asked.reset()


async def close_before_first_token(asked: Asked) -> None:
    """Open a stream and close it without a token, the chunked coding ended properly."""
    await asked.start()
    await asked.send(b"0\r\n\r\n")


async def close_after_first_token(asked: Asked) -> None:
    """Write one token and end the reply without its end mark."""
    await asked.start()
    await asked.chunk(asked.piece("You "))
    await asked.send(b"0\r\n\r\n")


async def half_a_line(asked: Asked) -> None:
    """Send the beginning of a line, then close."""
    await asked.start()
    await asked.chunk(asked.piece("You said")[:20])
    asked.writer.close()


async def empty_body(asked: Asked) -> None:
    """Answer 200 with nothing."""
    await asked.answer(200, b"")


async def missing(asked: Asked) -> None:
    """Answer 404."""
    await asked.answer(404, b'{"error": "model not found"}')


async def fail(asked: Asked) -> None:
    """Answer 500."""
    await asked.answer(500, b'{"error": "out of memory"}')


async def busy(asked: Asked) -> None:
    """Answer 503."""
    await asked.answer(503, b'{"error": "server busy"}')


async def reject(asked: Asked) -> None:
    """Answer 400."""
    await asked.answer(400, b'{"error": "invalid options: num_ctx"}')


async def gibberish(asked: Asked) -> None:
    """Answer what is no HTTP."""
    await asked.send(b"\x16\x03\x01 what?\r\n\r\n")


class StandIn:
    """A server whose answers are a behaviour's."""

    def __init__(self, behaviour: Behaviour = serve, *, tls: ssl.SSLContext | None = None) -> None:
        self.behaviour = behaviour
        self.asked: list[Asked] = []
        self.url = ""
        self._tls = tls
        self._connections = Connections(Asked, self._handle)

    @property
    def connections(self) -> int:
        """How many connections were ever made."""
        return self._connections.made

    @property
    def open_connections(self) -> int:
        """How many are open."""
        return self._connections.open

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """The tasks that serve them."""
        return self._connections.tasks

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        """Listen, on a port that is free or on the given one."""
        port = await self._connections.start(port, self._tls)
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        await self._connections.stop()

    async def _handle(self, asked: Asked) -> None:
        self.asked.append(asked)
        await self.behaviour(asked)


def refused_url() -> str:
    """Return the address of a port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


async def until(condition: Callable[[], bool], seconds: float = 2.0) -> None:
    """Wait for a condition; raises TimeoutError where it does not come."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        if loop.time() > deadline:
            raise TimeoutError("what the test waits for does not come")
        await asyncio.sleep(0.005)
