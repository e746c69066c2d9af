"""What becomes of the connections to an engine: which request goes over which, and which goes out once more.

On uvloop, as the proxy runs: what one read brings differs between the loops.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from athena.router.upstream import UpstreamClient
from tests.router.standin import Asked, Behaviour, StandIn


@asynccontextmanager
async def asking(behaviour: Behaviour) -> AsyncIterator[tuple[UpstreamClient, StandIn]]:
    """An engine, and a client that is left without a connection."""
    async with StandIn(behaviour) as engine:
        client = UpstreamClient()
        yield client, engine
        await client.aclose()
        assert not client.connections


@pytest.mark.parametrize(
    "surplus",
    [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong", b"HTTP/1.1 200 OK\r\ncontent-le", b"H", b"wrong"],
    ids=["a-reply", "part-of-a-head", "a-letter", "no-http"],
)
def test_what_an_engine_says_beyond_a_reply_reaches_nobody_who_waits(surplus: bytes) -> None:
    async def says_too_much(asked: Asked) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(asked.body)
        await asked.send(head + asked.body + surplus)

    async def ask() -> None:
        async with asking(says_too_much) as (client, engine):
            replies = await asyncio.gather(*(client.post(engine.url, b"%d" % number) for number in range(30)))
            assert [reply.body for reply in replies] == [b"%d" % number for number in range(30)]
            assert engine.connections == 30  # none was used again

    uvloop.run(ask())
