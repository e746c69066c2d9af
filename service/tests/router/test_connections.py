"""What becomes of the connections to an engine: which request goes over which, and which goes out once more.

On uvloop, as the proxy runs: what one read brings differs between the loops.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from athena.router import upstream, upstream_reply
from athena.router.errors import BackendError, FailureKind
from athena.router.upstream import UpstreamClient
from tests.router.standin import Asked, Behaviour, StandIn, until


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


def test_a_prompt_at_which_an_engine_breaks_down_is_sent_to_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_reply, "RESEND_SECONDS", 0.02)

    async def breaks_down(asked: Asked) -> None:
        if asked.body == b"deadly":
            await asyncio.sleep(0.1)  # it works on it
            asked.close()
        else:
            await asked.answer(200, asked.body)

    async def ask() -> None:
        async with asking(breaks_down) as (client, engine):
            await client.post(engine.url, b"harmless")
            with pytest.raises(BackendError) as caught:
                await client.post(engine.url, b"deadly")
            assert caught.value.kind is FailureKind.EMPTY
            assert [asked.body for asked in engine.asked] == [b"harmless", b"deadly"]

    uvloop.run(ask())


def test_a_change_takes_no_connection_that_becomes_free_before_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        may_end = asyncio.Event()

        async def answers_late(asked: Asked) -> None:
            if asked.method == "POST":
                await may_end.wait()
            await asked.answer(200, asked.body)

        async with asking(answers_late) as (client, engine):
            other = asyncio.create_task(client.post(engine.url, b"{}"))
            await until(lambda: len(engine.asked) == 1)
            monkeypatch.setattr(upstream, "CONNECTING_AT_ONCE", 0)  # as if that many were being made already
            change = client.start_change(engine.url, b"{}", delete=True, within=5)
            may_end.set()
            await other
            assert await change.whole() == b"{}"
            assert [asked.number for asked in engine.asked] == [1, 1]

    uvloop.run(ask())
