"""A stream that runs on past the limit of a graceful end."""

import asyncio
import time

import pytest

from tests.steadiness.world import World, until
from tests.support.caller import OLLAMA_CHAT, OPENAI_CHAT, Answer, Caller, question
from tests.support.registry import backend


@pytest.mark.parametrize("path", [OPENAI_CHAT, OLLAMA_CHAT])
async def test_a_stream_that_goes_on_past_the_limit_is_cut_and_its_caller_is_told(scene: World, path: str) -> None:
    scene.arguments = ["--grace", "1"]
    engine = scene.engine("hang_after_first_token")
    proxy = scene.proxy(backend(1, "m", "openai", engine.url, timeout_seconds=60))
    async with Caller(proxy.url) as caller:
        reader = await caller.send(path, question(path, "m", "for ever", stream=True))
        answer: asyncio.Task[Answer] = asyncio.create_task(caller.receive(reader, path, stream=True))
        await until(lambda: engine.report().running == 1)
        await asyncio.sleep(0.1)
        began = time.monotonic()
        status = await asyncio.to_thread(proxy.server.stop)
        seen = await answer
    assert status == 0
    assert 0.9 < time.monotonic() - began < 4
    assert seen.status == 200
    assert not seen.ended
    assert seen.error
