"""An engine that costs next to nothing: answers every POST at once, in OpenAI's format, whole or as a stream.

`python upstream.py PORT`. One uvloop protocol; what is measured in front of it is the gateway.
"""

import asyncio
import sys
from typing import cast

import httptools
import uvloop

CHUNKS = 100
_TEXT = "The quick brown fox jumps over the lazy dog. " * 6
_WHOLE = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"bench","choices":[{"index":0,'
    f'"finish_reason":"stop","message":{{"role":"assistant","content":"{_TEXT}"}}}}],'
    '"usage":{"prompt_tokens":250,"completion_tokens":60,"total_tokens":310}}'
).encode()
_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
)
_LAST = _CHUNK.replace(b'{"content":" token"}', b"{}").replace(b"null", b'"stop"')


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_WHOLE), _WHOLE)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_PIECES = [_chunked(_CHUNK)] * CHUNKS + [_chunked(_LAST), _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"]


class Engine(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        if b'"stream":true' in body:
            self._write(STREAM_HEAD)
            self._stream(0)
        else:
            self._write(WHOLE)

    def _stream(self, sent: int) -> None:
        """Write one piece a turn of the loop, so that each travels by itself."""
        self._write(STREAM_PIECES[sent])
        if sent + 1 < len(STREAM_PIECES):
            asyncio.get_running_loop().call_soon(self._stream, sent + 1)

    def _write(self, data: bytes) -> None:
        self._transport.write(data)


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
