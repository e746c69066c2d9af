"""A body that is JSON but for bytes that are no UTF-8: an engine may choke on it, so it must not get that far."""

from tests.steadiness.world import World
from tests.support.caller import PATHS, Caller
from tests.support.registry import backend


async def test_bytes_that_are_no_utf_8_never_reach_an_engine(scene: World) -> None:
    engine = scene.engine()
    proxy = scene.proxy(backend(1, "m", "openai", engine.url), backend(2, "m", "ollama", engine.url))
    message = b'[{"role": "user", "content": "\xff\xfe"}]'
    body = b'{"model": "m", "prompt": "\xff\xfe", "messages": ' + message + b"}"
    for path in PATHS:
        async with Caller(proxy.url) as caller:
            answer = await caller.receive(await caller.send(path, body), path, stream=False)
        assert answer.status == 400, answer
        assert answer.error
    assert not engine.report().prompts
