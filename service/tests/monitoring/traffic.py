"""What callers do with the system, and what they got."""

import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.monitoring.system import (
    AUTO,
    BROKEN,
    COMPARED,
    CUT,
    FAILING_OVER,
    NARROW,
    SHARED,
    System,
)

OPENAI_CHAT, OPENAI_TEXT, OLLAMA_CHAT, OLLAMA_TEXT = (
    "/v1/chat/completions",
    "/v1/completions",
    "/api/chat",
    "/api/generate",
)
OPERATIONS = {
    OPENAI_CHAT: "chat",
    OLLAMA_CHAT: "chat",
    OPENAI_TEXT: "text_completion",
    OLLAMA_TEXT: "text_completion",
}
# How long a busy machine may take; and after how many answers of two workers both have surely been among them.
SETTLED_WITHIN_SECONDS = 60.0
ASKED_IN_A_ROW = 20


@dataclass
class Tally:
    """What callers got of the proxy: replies by operation, model and backend's id, whole ones and streams; and what
    went wrong, by model and the type of error.
    """

    replies: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    streams: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    queries: Counter[int] = field(default_factory=Counter)


class Callers:
    """Callers of the proxy and of the orchestrator. Each method is a round of them, which may be repeated."""

    def __init__(self, system: System) -> None:
        self.tally = Tally()
        self._system = system
        self._stack = ExitStack()
        self._proxy = self._stack.enter_context(
            httpx.Client(base_url=system.proxy.url, timeout=60, headers={"authorization": f"Bearer {system.key}"})
        )
        self._orchestrator = self._stack.enter_context(httpx.Client(base_url=system.orchestrator.url, timeout=60))

    def close(self) -> None:
        """End their connections."""
        self._stack.close()

    def everything(self) -> None:
        """Do all of it once."""
        self.ask_well()
        self.ask_wrongly()
        self.meet_failures()
        self.wait_in_line()
        self.leave()
        self.query()

    def ask_well(self, times: int = 2) -> None:
        """Ask what is answered, streams and whole replies, in both dialects; one engine fails and another answers."""
        for _ in range(times):
            for model in (SHARED, FAILING_OVER, AUTO, COMPARED, "unheard-of"):
                for path in OPERATIONS:
                    for stream in (False, True):
                        self._ask(model, path, stream=stream)

    def ask_wrongly(self) -> None:
        """Ask what cannot be answered, without a key, and what is no request."""
        body = {"model": SHARED, "messages": [{"role": "user", "content": "caller"}]}
        for key in ("", "sk-nobody"):
            answer = httpx.post(f"{self._system.proxy.url}{OPENAI_CHAT}", json=body, headers={"x-api-key": key})
            assert answer.status_code == 401
            self.tally.errors["other", "unauthorized"] += 1
        assert self._proxy.post(OPENAI_CHAT, content=b"{").status_code == 400
        self.tally.errors["other", "request_rejected"] += 1
        assert self._proxy.get("/no/such/page").status_code == 404
        with self._connection() as connection:
            connection.sendall(b"this is no HTTP\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 400")

    def meet_failures(self) -> None:
        """Ask engines that fail before and after their first token."""
        answer = self._proxy.post(OPENAI_CHAT, json=_body(BROKEN, OPENAI_CHAT, stream=False))
        assert answer.status_code == 503
        self.tally.errors[BROKEN, "no_backend_available"] += 1
        try:
            answer = self._proxy.post(OPENAI_CHAT, json=_body(CUT, OPENAI_CHAT, stream=True))
        except httpx.RemoteProtocolError:  # the stream was not ended properly
            self.tally.errors[CUT, "stream_broken"] += 1
        else:
            assert answer.status_code == 503
            self.tally.errors[CUT, "no_backend_available"] += 1

    def wait_in_line(self) -> None:
        """Ask an engine that takes one at once, three at once."""

        def ask(number: int) -> None:
            self._ask(NARROW, OPENAI_CHAT, stream=True, prompt=f"caller {number} [tokens=4 pause=0.05]")

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(ask, range(3)))

    def leave(self) -> None:
        """Leave in the middle of a stream."""
        body = httpx.Request(
            "POST",
            self._system.proxy.url,
            json=_body(SHARED, OPENAI_CHAT, stream=True, prompt="caller [tokens=200 pause=0.05]"),
        ).read()
        head = (
            f"POST {OPENAI_CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self._system.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with self._connection() as connection:
            connection.sendall(head.encode() + body)
            received = b""
            while b"data: " not in received:
                received += connection.recv(65536)
        self.tally.errors[SHARED, "cancelled"] += 1

    def query(self) -> None:
        """Ask the orchestrator, well and wrongly."""
        for query in ({"query": "talk to me", "mode": "owner"}, {"query": "home control", "mode": "owner"}, {}):
            self.tally.queries[self._orchestrator.post("/query", json=query).status_code] += 1

    def _connection(self) -> socket.socket:
        address = urlsplit(self._system.proxy.url)
        return socket.create_connection((address.hostname, address.port or 80), timeout=30)

    def _ask(self, model: str, path: str, *, stream: bool, prompt: str = "caller") -> None:
        answer = self._proxy.post(path, json=_body(model, path, stream=stream, prompt=prompt))
        assert answer.status_code == 200, answer.text
        known = model if model in self._system.numbers else "other"
        counted = (OPERATIONS[path], known, answer.headers["x-athena-backend-id"])
        self.tally.replies[counted] += 1
        if stream:
            self.tally.streams[counted] += 1


def _body(model: str, path: str, *, stream: bool, prompt: str = "caller") -> dict[str, Any]:
    chat = OPERATIONS[path] == "chat"
    said: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    return {"model": model, "stream": stream, **said}


def read_admin(system: System) -> Iterator[int]:
    """Use the Admin API in several ways; yields the status of each answer."""
    with system.client() as client:
        yield client.get("/api/llm-backends").status_code
        yield client.get("/api/llm-backends/99999").status_code
        yield client.put(f"/api/llm-backends/{system.numbers[SHARED][0]}", json={"max_tokens": 2000}).status_code
        yield client.get("/api/hosts").status_code
        yield client.get("/no/such/page").status_code


def settled(system: System, tally: Tally) -> None:
    """Wait until every service tells of all that callers got, and of what engines and hosts were to do.

    Of several workers each answers for all, and hears of what the others counted a moment later.
    """
    requests, queries = "gen_ai_server_request_duration_seconds_count", "http_server_request_duration_seconds_count"
    wanted = {
        "proxy": {(requests, ""): tally.replies.total() + tally.errors.total()},
        "orchestrator": {
            (requests, ""): 2 * tally.queries[200],
            (queries, 'http_route="/query"'): tally.queries.total(),
        },
        "agent": {("athena_engine_restarts_total", 'engine="mlx",result="done"'): 1},
    }
    until = time.monotonic() + SETTLED_WITHIN_SECONDS
    services, agreed = system.services(), 0
    while agreed < ASKED_IN_A_ROW:
        # Each over a connection of its own, which any of its workers may get.
        texts = {service: httpx.get(f"{services[service].url}/metrics", timeout=30).text for service in wanted}
        told = {service: {one: _sum(texts[service], *one) for one in ones} for service, ones in wanted.items()}
        agreed = agreed + 1 if told == wanted else 0
        assert time.monotonic() < until, (told, wanted)
        time.sleep(0.02)


def _sum(exposition: str, name: str, labels: str) -> float:
    """Return the sum of a metric's series that have the labels, as they stand there."""
    lines = (line for line in exposition.splitlines() if line.startswith(f"{name}{{") and labels in line)
    return sum(float(line.rpartition(" ")[2]) for line in lines)
