"""How a stand-in engine answers one request: well, or in each of the ways in which engines fail."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping

from tests.support.faults.wire import Question, chunk, directions, head, reply_to


class Asked:
    """One request on one connection. `http10` says to answer as mlx_lm.server does: HTTP/1.0, ended by the close."""

    def __init__(self, question: Question, transport: asyncio.Transport, *, http10: bool) -> None:
        self.question = question
        self.http10 = http10
        self._transport = transport

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._transport.write(data)

    def answer(self, status: int, body: bytes, *fields: str) -> None:
        """Send a whole answer."""
        self.write(head(status, "application/json", f"content-length: {len(body)}", *fields) + body)

    def start(self, first: bytes = b"") -> None:
        """Open a stream; `first` is what mlx_lm.server says while it reads the prompt."""
        if self.http10:
            self.write(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + first)
        else:
            self.write(head(200, self.question.content_type, "transfer-encoding: chunked"))

    def send(self, data: bytes) -> None:
        """Send a part of the stream."""
        self.write(data if self.http10 else chunk(data))

    def end(self) -> None:
        """End the stream's body, whether or not the stream itself is complete."""
        if self.http10:
            self.close()
        else:
            self.write(chunk(b""))

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self._transport.close()

    def reset(self) -> None:
        """Break the connection off with a reset."""
        connection: socket.socket = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


Behaviour = Callable[[Asked], Awaitable[None]]


async def serve(asked: Asked) -> None:
    """Answer properly."""
    question = asked.question
    tokens = reply_to(question.prompt)
    pause = directions(question.prompt)[1]
    if not question.stream:
        if pause:
            await asyncio.sleep(pause * len(tokens))
        asked.answer(200, question.whole("".join(tokens)))
        return
    asked.start(b": keepalive 1/2\n\n")
    for token in tokens:
        await asyncio.sleep(pause)
        asked.send(question.piece(token))
    asked.send(question.end())
    asked.end()


async def hang(asked: Asked) -> None:
    """Take the request and never answer."""
    await _for_ever()


async def hang_after_head(asked: Asked) -> None:
    """Send the head of an answer and no body; as mlx_lm.server with one comment, as if the prompt were being read."""
    if asked.question.stream:
        asked.start(b": keepalive 1/2\n\n")
    else:
        asked.write(head(200, "application/json", "content-length: 100"))
    await _for_ever()


async def hang_after_first_token(asked: Asked) -> None:
    """Begin the reply and say no more."""
    await _begin(asked)
    await _for_ever()


async def keep_alive_only(asked: Asked) -> None:
    """Say that the prompt is still being read, for ever: mlx_lm.server's comments, an empty piece from Ollama."""
    question = asked.question
    if not question.stream:
        await _for_ever()
    asked.start()
    while True:
        asked.send(question.piece("") if question.ollama else b": keepalive 1/2\n\n")
        await asyncio.sleep(0.2)


async def end_without_token(asked: Asked) -> None:
    """Open a stream and end it properly, but without a token or an end mark."""
    if asked.question.stream:
        asked.start()
        asked.end()
    else:
        asked.answer(200, b"")


async def end_without_mark(asked: Asked) -> None:
    """Write the first token and end the body properly, but without the dialect's end mark."""
    await _begin(asked)
    asked.end()
    if not asked.question.stream:
        asked.close()


async def close_after_first_token(asked: Asked) -> None:
    """Begin the reply and close the connection."""
    await _begin(asked)
    asked.close()


async def reset_after_first_token(asked: Asked) -> None:
    """Begin the reply and reset the connection."""
    await _begin(asked)
    asked.reset()


async def error_after_first_token(asked: Asked) -> None:
    """Begin the reply and report a failure in the stream."""
    await _begin(asked)
    error = b'{"error": "out of memory"}\n'
    asked.send(error if asked.question.ollama else b"data: " + error + b"\n")
    asked.end()
    if not asked.question.stream:
        asked.close()


async def half_a_line(asked: Asked) -> None:
    """Send the beginning of a line, then close."""
    question = asked.question
    if question.stream:
        asked.start()
        asked.send(question.piece("You said")[:20])
    else:
        body = question.whole("You said")
        asked.write(head(200, "application/json", f"content-length: {len(body)}") + body[:20])
    asked.close()


async def half_a_line_after_first_token(asked: Asked) -> None:
    """Begin the reply, send the beginning of the next line, then close."""
    await _begin(asked)
    asked.send(asked.question.piece("and more")[:20])
    asked.close()


async def nothing(asked: Asked) -> None:
    """Answer 200 with an empty body."""
    asked.answer(200, b"")


async def close(asked: Asked) -> None:
    """Close the connection without a byte."""
    asked.close()


async def reset(asked: Asked) -> None:
    """Reset the connection without a byte."""
    asked.reset()


async def missing(asked: Asked) -> None:
    """Answer 404, as mlx_lm.server does to whatever goes wrong."""
    asked.answer(404, b'{"error": "model not found"}')


async def fail(asked: Asked) -> None:
    """Answer 500."""
    asked.answer(500, b'{"error": "out of memory"}')


async def unavailable(asked: Asked) -> None:
    """Answer 503, as Ollama does while its queue is full."""
    asked.answer(503, b'{"error": "server busy, please try again.  maximum pending requests exceeded"}')


async def too_many(asked: Asked) -> None:
    """Answer 429."""
    asked.answer(429, b'{"error": {"message": "slow down"}}', "retry-after: 1")


async def reject(asked: Asked) -> None:
    """Answer 400."""
    asked.answer(400, b'{"error": "invalid options: num_ctx"}')


async def gibberish(asked: Asked) -> None:
    """Answer what is no HTTP."""
    asked.write(b"\x16\x03\x01 what?\r\n\r\n")


async def _begin(asked: Asked) -> None:
    """Write the first token, or the first half of a whole reply, and let it arrive alone."""
    question = asked.question
    token = reply_to(question.prompt)[0]
    if question.stream:
        asked.start()
        asked.send(question.piece(token))
    else:
        body = question.whole(token)
        asked.write(head(200, "application/json", f"content-length: {len(body)}") + body[: len(body) // 2])
    await asyncio.sleep(0.5)  # also where the proxy has to wait for a processor


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


BEHAVIOURS: Mapping[str, Behaviour] = {
    behaviour.__name__: behaviour
    for behaviour in (
        *(serve, hang, hang_after_head, hang_after_first_token, keep_alive_only, end_without_token, end_without_mark),
        *(close_after_first_token, reset_after_first_token, error_after_first_token),
        *(half_a_line, half_a_line_after_first_token, nothing, close, reset),
        *(missing, fail, unavailable, too_many, reject, gibberish),
    )
}
REFUSE = "refuse"
BLACK_HOLE = "black_hole"

UNREACHABLE = (REFUSE, BLACK_HOLE)
"""What happens to a connection before there is a request."""
BEFORE_FIRST_TOKEN = (
    *("end_without_token", "half_a_line", "nothing", "close", "reset"),
    *("missing", "fail", "unavailable", "too_many", "gibberish"),
)
"""Failures that show at once, before the first token."""
AFTER_FIRST_TOKEN = (
    *("end_without_mark", "close_after_first_token", "reset_after_first_token"),
    *("error_after_first_token", "half_a_line_after_first_token"),
)
"""Failures that show at once, after the first token of a stream or in the middle of a whole reply."""
HANGS_BEFORE_FIRST_TOKEN = ("hang", "hang_after_head")
