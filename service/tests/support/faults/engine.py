"""A stand-in engine as a process: `python -m tests.support.faults.engine PORT [--http10]`.

It takes commands on standard input, one JSON object a line, and answers each with one on standard output:
`{"do": "become", "mode": …, "only": …}` changes how requests are met from now on whose prompts begin so,
`{"do": "listen", "port": …, "http10": …}` opens one more port, `{"do": "report"}` tells what happened so far,
`{"do": "forget"}` starts that anew. It ends with its input.
"""

import asyncio
import json
import re
import socket
import sys
import time
from collections import deque
from functools import partial
from typing import Any

import uvloop

from athena.router.probing import PROBE_PROMPT
from tests.support.faults.behaviours import BEHAVIOURS, BLACK_HOLE, REFUSE, Asked
from tests.support.faults.wire import Question

BACKLOG = 2048
REMEMBERED = 20_000  # prompts, in the order in which they came
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Engine:
    """All ports of the process, and what they have seen."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.mode = "serve"
        self.only = ""
        self.connections: set[Connection] = set()
        self._ports: dict[int, bool] = {}
        self._listeners: list[socket.socket] = []
        self._plugs: list[socket.socket] = []
        self._accepting: set[asyncio.Task[Any]] = set()
        self.forget()

    def forget(self) -> None:
        """Start the counts anew."""
        self.accepted = 0
        self.running = sum(connection.busy for connection in self.connections)
        self.most_running = self.running
        self.prompts: deque[str] = deque(maxlen=REMEMBERED)
        self.left: dict[str, float] = {}

    def report(self) -> dict[str, Any]:
        """Return what was seen; times are time.monotonic()'s, which processes share."""
        return {
            "accepted": self.accepted,
            "connections": len(self.connections),
            "running": self.running,
            "most_running": self.most_running,
            "prompts": list(self.prompts),
            "left": self.left,
        }

    def listen(self, port: int, *, http10: bool) -> None:
        """Open one more port; with `http10` it speaks like mlx_lm.server."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._listeners.append(listener)
        self._ports[port] = http10
        self.loop.add_reader(listener, self._accept, listener)

    def become(self, mode: str, only: str) -> None:
        """Meet requests in another way from now on; those that run go on, unless nobody could reach the engine."""
        if self.mode == BLACK_HOLE:
            self._uncover()
        self.mode, self.only = mode, only
        if mode == REFUSE:
            self._close()
        elif not self._listeners:
            for port, http10 in self._ports.items():
                self.listen(port, http10=http10)
        if mode == BLACK_HOLE:
            self._cover()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            http10 = self._ports[listener.getsockname()[1]]
            served = self.loop.connect_accepted_socket(partial(Connection, self, http10=http10), connection)
            task = self.loop.create_task(served)
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    def _close(self) -> None:
        for listener in self._listeners:
            self.loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        for connection in tuple(self.connections):
            connection.transport.abort()

    def _cover(self) -> None:
        """Let every packet to a new connection be dropped: nothing is accepted, and the queue for it is full."""
        for listener in self._listeners:
            self.loop.remove_reader(listener)
            listener.listen(0)
            for _ in range(4):
                plug = socket.socket()
                plug.setblocking(False)
                plug.connect_ex(listener.getsockname())
                self._plugs.append(plug)
        for connection in self.connections:
            connection.freeze()

    def _uncover(self) -> None:
        for plug in self._plugs:
            plug.close()
        self._plugs.clear()
        for listener in self._listeners:
            listener.listen(BACKLOG)
            self.loop.add_reader(listener, self._accept, listener)
        for connection in tuple(self.connections):
            connection.transport.abort()


class Connection(asyncio.Protocol):
    """One connection: a request after the other, no two at once."""

    def __init__(self, engine: Engine, *, http10: bool) -> None:
        self._engine = engine
        self._http10 = http10
        self._received = b""
        self._prompt = ""
        self._counted = False
        self._task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport

    @property
    def busy(self) -> bool:
        """Whether a caller's request is being served."""
        return self._counted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # it reads and writes
        self._engine.accepted += 1
        self._engine.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._task is not None:
            return
        length = _LENGTH.search(self._received, 0, end)
        after = end + 4 + (int(length[1]) if length else 0)
        if len(self._received) < after:
            return
        method, path, _ = self._received[: self._received.index(b"\r\n")].decode("latin-1").split(" ", 2)
        body = self._received[end + 4 : after]
        self._received = self._received[after:]
        if method != "POST" or path == "/api/show":
            self._show(path)
            return
        question = Question(path, body)
        self._prompt = question.prompt
        engine = self._engine
        if question.prompt != PROBE_PROMPT:  # what the proxy asks for itself is no caller's
            self._counted = True
            engine.prompts.append(question.prompt)
            engine.running += 1
            engine.most_running = max(engine.most_running, engine.running)
        asked = Asked(question, self.transport, http10=self._http10)
        self._task = engine.loop.create_task(self._answer(asked))

    async def _answer(self, asked: Asked) -> None:
        try:
            meant = self._prompt.startswith(self._engine.only)
            await BEHAVIOURS[self._engine.mode if meant else "serve"](asked)
        finally:
            self._engine.running -= self._counted
            self._counted = False
            self._task = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._engine.connections.discard(self)
        if self._counted:
            self._engine.left[self._prompt] = time.monotonic()
        if self._task is not None:
            self._task.cancel()

    def freeze(self) -> None:
        """Take nothing in any more, and say nothing."""
        self.transport.pause_reading()
        if self._task is not None:
            self._task.cancel()

    def _show(self, path: str) -> None:
        """Answer what is no prompt: what engines list, and what probes ask for."""
        known = {
            "/api/tags": {"models": []},
            "/api/ps": {"models": []},
            "/api/version": {"version": "0.11.4"},
            "/v1/models": {"object": "list", "data": []},
            "/health": {"status": "ok"},
        }
        status, value = (200, known[path]) if path in known else (404, {"error": "not found"})
        text = json.dumps(value)
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
        self.transport.write((head + text).encode())


async def main(port: int, *, http10: bool) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    engine = Engine(loop)
    engine.listen(port, http10=http10)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    _say({})
    while line := await commands.readline():
        command = json.loads(line)
        match command["do"]:
            case "become":
                engine.become(command["mode"], command["only"])
                _say({})
            case "listen":
                engine.listen(command["port"], http10=command["http10"])
                _say({})
            case "forget":
                engine.forget()
                _say({})
            case "report":
                _say(engine.report())


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), http10="--http10" in sys.argv))
