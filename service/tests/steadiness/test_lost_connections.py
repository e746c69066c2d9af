"""Connections that go away in the very moment in which a request is written to them."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from athena.router.errors import BackendError
from athena.router.upstream import UpstreamClient
from tests.router.standin import StandIn

ROUNDS = 200
BODY = b'{"model": "m", "prompt": "Hello"}'


@contextmanager
def closing_at_once() -> Iterator[str]:
    """An engine that closes every connection as soon as it is made, as one that is being killed may."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:

        def accept() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return  # the test is over

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/completions"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


async def _ask_both(closing: str) -> tuple[int, int]:
    """Ask the closing engine and a sound one in the same turns; returns how many failed and were served in time."""
    failed = served = 0
    async with StandIn() as engine:
        client = UpstreamClient()
        for _ in range(ROUNDS):
            urls = (closing, f"{engine.url}/v1/completions") * 2
            replies = [client.start(url, BODY, within=1) for url in urls]
            for url, outcome in zip(
                urls, await asyncio.gather(*(reply.whole() for reply in replies), return_exceptions=True), strict=True
            ):
                if url == closing:
                    failed += isinstance(outcome, BackendError) and outcome.kind != "timeout"
                else:
                    served += isinstance(outcome, bytes) and b"You said: Hello." in outcome
        await client.aclose()
    return failed, served


def test_an_engine_that_closes_connections_at_once_costs_no_request_to_another_one() -> None:
    with closing_at_once() as closing:
        failed, served = uvloop.run(_ask_both(closing))
    assert served == 2 * ROUNDS
    assert failed == 2 * ROUNDS
