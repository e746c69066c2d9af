"""Programs that send prompts to a deployment while something is done with it, and an engine that answers them."""

import asyncio
import json
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

PATIENCE = 60
# A model on two cores, which a cluster, Ansible and these callers share, has time for so many prompts a second: with 10
# it fell behind where the machine was busy with other things as well. The others go to an engine that takes no time.
TO_A_REAL_ENGINE = 2
MODEL, REAL_MODEL = "answers-at-once", "tiny"
ANSWERS = "an answer", "a stream to its end"


@contextmanager
def meanwhile(work: Callable[[asyncio.Event], Coroutine[None, None, None]]) -> Iterator[None]:
    """Have work done in a thread of its own, which is told when the block ends."""
    ended = asyncio.Event()
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(work(ended),))
        thread.start()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join()


def address_towards(host: str) -> str:
    """Return the address of this machine that a host reaches it by, which is on one network with it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        towards.connect((host, 9))
        address: str = towards.getsockname()[0]
        return address


class Engine:
    """An engine of OpenAI's API on this machine that answers every prompt at once, with one word."""

    def __init__(self, reached_from: str) -> None:
        address = address_towards(reached_from)
        self._socket = socket.create_server((address, 0), backlog=1024)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{address}:{self.port}"

    async def answer(self, ended: asyncio.Event) -> None:
        """Answer until the end."""
        server = await asyncio.start_server(self._serve, sock=self._socket)
        await ended.wait()
        server.close()

    @staticmethod
    async def _serve(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while True:
                head, body = await read_message(reader)
                chat = b"/chat/" in head
                if not head.startswith(b"POST"):
                    writer.write(whole({"object": "list", "data": [{"id": MODEL, "object": "model"}]}))
                elif json.loads(body).get("stream"):
                    events = (completion(chat=chat, stream=True), "[DONE]")
                    text = "".join(f"data: {event if event == '[DONE]' else json.dumps(event)}\n\n" for event in events)
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                        + f"{len(text):x}\r\n{text}\r\n0\r\n\r\n".encode()
                    )
                else:
                    writer.write(whole(completion(chat=chat, stream=False)))
        except (EOFError, ConnectionError, asyncio.CancelledError):
            pass  # whoever asked has left, or the engine ends
        finally:
            writer.close()


class Callers:
    """They ask at a fixed rate, whether answers come or not; a third of the prompts are streams.

    Every second prompt goes over a connection of its own, the others over connections that are kept.
    """

    def __init__(self, url: str, rate: float) -> None:
        self._host = urlsplit(url).netloc
        self._rate = rate
        self._kept: list[tuple[StreamReader, StreamWriter]] = []
        self.outcomes: Counter[str] = Counter()
        self.seconds = 0.0

    def assert_that_all_were_answered(self) -> None:
        """Raise AssertionError if a prompt failed, or if they were not as many as they should have been."""
        failed = {outcome: count for outcome, count in self.outcomes.items() if outcome not in ANSWERS}
        assert not failed, failed
        assert self.outcomes.total() > 0.9 * self._rate * self.seconds, (self.outcomes, self.seconds)

    async def call(self, ended: asyncio.Event) -> None:
        """Ask until the end, and then wait for the answers."""
        clock = asyncio.get_running_loop().time
        began, number = clock(), 0
        async with asyncio.TaskGroup() as asked:
            while not ended.is_set():
                is_real = number % (self._rate // TO_A_REAL_ENGINE or 1) == 0
                asked.create_task(
                    self._ask(REAL_MODEL if is_real else MODEL, stream=number % 3 == 0, keep=number % 2 == 0)
                )
                number += 1
                await asyncio.sleep(max(0.0, began + number / self._rate - clock()))
            self.seconds = clock() - began
        for _, writer in self._kept:
            writer.close()

    async def _ask(self, model: str, *, stream: bool, keep: bool) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                outcome = await self._outcome(model, stream=stream, keep=keep)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            outcome = f"{model}, {'kept' if keep else 'new'} connection: {error!r}"
        self.outcomes[outcome] += 1

    async def _outcome(self, model: str, *, stream: bool, keep: bool) -> str:
        reader, writer = await self._connection(keep=keep)
        try:
            body = json.dumps({"model": model, "prompt": "What is 2+2?", "max_tokens": 1, "stream": stream})
            request = (
                f"POST /v1/completions HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: {'keep-alive' if keep else 'close'}\r\n\r\n{body}"
            )
            writer.write(request.encode())
            head, answer = await read_message(reader)
        except BaseException:
            writer.close()
            raise
        if keep and b"connection: close" not in head.lower():
            self._kept.append((reader, writer))
        else:
            writer.close()
        status = head.partition(b"\r\n")[0]
        if b" 200 " not in status:
            return f"{model}: {status!r} {answer[:300]!r}"
        if stream and not answer.rstrip().endswith(b"data: [DONE]"):
            return f"{model}: a stream without its end: {answer[-100:]!r}"
        return ANSWERS[stream]

    async def _connection(self, *, keep: bool) -> tuple[StreamReader, StreamWriter]:
        while keep and self._kept:
            reader, writer = self._kept.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        host, _, port = self._host.partition(":")
        return await asyncio.open_connection(host, int(port))


# --- HTTP/1.1, as much as there is of it between these ----------------------------------------------------------------


async def read_message(reader: StreamReader) -> tuple[bytes, bytes]:
    """Return head and body of what comes next. Raises EOFError where nothing, or not all of it, does."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
    if fields.get(b"transfer-encoding") != b"chunked":
        return head, await reader.readexactly(int(fields.get(b"content-length", b"0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return head, body


def whole(answer: object) -> bytes:
    """Return a whole answer in JSON."""
    text = json.dumps(answer)
    return f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode()


def completion(*, chat: bool, stream: bool) -> dict[str, object]:
    """Return what OpenAI's API says for one word: all of it, or the one chunk of a stream."""
    message = {"role": "assistant", "content": "four"}
    said = {"delta" if stream else "message": message} if chat else {"text": "four"}
    kind = "text_completion" if not chat else "chat.completion.chunk" if stream else "chat.completion"
    return {
        "id": "1",
        "object": kind,
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": "stop", **said}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
    }
