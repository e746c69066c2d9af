"""A caller on raw sockets: it sees what a client library hides, such as a body that was not ended properly."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import msgspec

OPENAI_CHAT, OPENAI_TEXT = "/v1/chat/completions", "/v1/completions"
OLLAMA_CHAT, OLLAMA_TEXT = "/api/chat", "/api/generate"
PATHS = (OPENAI_CHAT, OPENAI_TEXT, OLLAMA_CHAT, OLLAMA_TEXT)


class Answer(msgspec.Struct):
    """One answer. `ended` says that its body came to its proper end."""

    path: str
    status: int
    headers: dict[str, str]
    body: bytes
    ended: bool
    stream: bool

    @property
    def events(self) -> list[dict[str, Any]]:
        """The stream's events or lines in order, without OpenAI's end mark; the one value of a whole reply."""
        if not self.stream or self.status != 200:
            return [json.loads(self.body)]
        values = []
        for line in self.body.decode().split("\n"):
            value = line.removeprefix("data: ").strip()
            if value and value != "[DONE]" and not value.startswith(":"):
                values.append(json.loads(value))
        return values

    @property
    def text(self) -> str:
        """What the engine said."""
        return "".join(_text(event) for event in self.events)

    @property
    def complete(self) -> bool:
        """Whether a client of the dialect takes it for a whole reply: proper end of the body, end mark, no error."""
        if self.status != 200 or not self.ended or self.error:
            return False
        if self.path.startswith("/api/"):
            return self.events[-1].get("done") is True
        if self.stream:
            return self.body.endswith(b"data: [DONE]\n\n")
        return bool(self.events[0]["choices"][0]["finish_reason"])

    @property
    def error(self) -> str:
        """What the dialect's error says, the last thing that was sent; empty if there is none."""
        events = self.events
        error = events[-1].get("error") if events else None
        if error is None:
            return ""
        # OpenAI's is an object with a message, Ollama's a bare text.
        return str(error) if self.path.startswith("/api/") else str(error["message"])

    @property
    def backend(self) -> str:
        """The id of the backend that answered, as the proxy tells it; empty if none did."""
        return self.headers.get("x-athena-backend-id", "")


def _text(event: dict[str, Any]) -> str:
    if event.get("choices"):
        choice = event["choices"][0]
        said = choice.get("delta") or choice.get("message") or choice
        return said.get("content") or said.get("text") or ""
    if "message" in event:
        return event["message"].get("content") or ""
    return event.get("response") or ""


def question(path: str, model: str, prompt: str, *, stream: bool, **more: Any) -> bytes:
    """Return the body of a request for a reply."""
    asked = {"messages": [{"role": "user", "content": prompt}]} if "chat" in path else {"prompt": prompt}
    return json.dumps({"model": model, **asked, "stream": stream, **more}).encode()


class Caller:
    """One connection, which is kept from one request to the next where the server allows it.

    `source` is the address that the caller has on this machine, such as 127.0.0.2; `headers` go with every request.
    """

    def __init__(self, url: str, *, source: str = "", headers: dict[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._source = source
        fields = {"host": parts.netloc, "content-type": "application/json", **(headers or {})}
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, path: str, model: str, prompt: str, *, stream: bool = False, **more: Any) -> Answer:
        """Ask for a reply and take all of it in."""
        reader = await self.send(path, question(path, model, prompt, stream=stream, **more))
        return await self.receive(reader, path, stream=stream)

    async def send(self, path: str, body: bytes) -> asyncio.StreamReader:
        """Send a request; returns where its answer comes from."""
        reader, writer = self._reader, self._writer
        if reader is None or writer is None or reader.at_eof():
            self.leave()
            source = (self._source, 0) if self._source else None
            reader, writer = await asyncio.open_connection(self._host, self._port, local_addr=source, limit=1 << 24)
            self._reader, self._writer = reader, writer
        head = f"POST {path} HTTP/1.1\r\n{self._fields}content-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        return reader

    async def receive(self, reader: asyncio.StreamReader, path: str, *, stream: bool) -> Answer:
        """Take in one answer. Raises IncompleteReadError where not even its head came."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (field.split(":", 1) for field in fields)}
        pieces: list[bytes] = []
        try:
            if "content-length" in headers:
                pieces.append(await reader.readexactly(int(headers["content-length"])))
            else:
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    pieces.append((await reader.readexactly(size + 2))[:-2])
                await reader.readexactly(2)
            ended = True
        except (asyncio.IncompleteReadError, ConnectionError):
            ended = False
        if not ended or headers.get("connection") == "close":
            self.leave()
        return Answer(path, int(line.split(" ")[1]), headers, b"".join(pieces), ended, stream)

    def leave(self) -> None:
        """Close the connection, whatever is still to come."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()


async def ask(url: str, path: str, model: str, prompt: str, *, stream: bool = False, **more: Any) -> Answer:
    """Ask for one reply on a connection of its own."""
    async with Caller(url) as caller:
        return await caller.ask(path, model, prompt, stream=stream, **more)
