"""SIGTERM: new work is refused, running streams end in their own time up to a limit, figures are flushed."""

import asyncio
import signal

from tests.steadiness.world import World, until
from tests.support.caller import OLLAMA_CHAT, OPENAI_CHAT, ask
from tests.support.faults.wire import reply_to
from tests.support.registry import backend

PROMPT = "take your time [tokens=10 pause=0.1]"


async def _refused(url: str) -> bool:
    """Whether a new caller is turned away, clearly and at once."""
    try:
        answer = await ask(url, OPENAI_CHAT, "m", "me too")
    except (OSError, asyncio.IncompleteReadError):
        return True  # nobody listens any more
    return answer.status == 503


async def test_running_streams_end_in_their_own_time_and_new_work_is_refused(scene: World) -> None:
    engine = scene.engine()
    proxy = scene.proxy(backend(1, "m", "openai", engine.url))
    streams = [
        asyncio.create_task(ask(proxy.url, path, "m", PROMPT, stream=stream))
        for path in (OPENAI_CHAT, OLLAMA_CHAT)
        for stream in (False, True)
    ]
    await until(lambda: engine.report().running == len(streams))
    await asyncio.sleep(0.2)
    proxy.server.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    assert await _refused(proxy.url)
    answers = await asyncio.gather(*streams)
    assert all(answer.complete for answer in answers), answers
    assert {answer.text for answer in answers} == {"".join(reply_to(PROMPT))}
    assert await asyncio.to_thread(proxy.server.process.wait, 10) == 0
    assert scene.registry.figures()[1]["requests"] == len(streams)
