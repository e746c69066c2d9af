"""A caller leaves: the connection to its engine is closed in the same breath, whatever the request waits for.

That is counted in turns of the proxy's loop, not in milliseconds: no clock, no other request and no engine's word comes
between, so that a busy machine makes no difference.
"""

import asyncio
import json
from contextlib import ExitStack
from itertools import product

import pytest

from athena.proxy.app import create_app
from athena.proxy.server.limits import Limits
from athena.router.upstream_reply import UpstreamReply
from athena.settings import ProxySettings
from tests.proxy.conftest import TOKEN, Run, closed_port, wait_for_configuration
from tests.proxy.engines import hangs, hangs_in_its_stream
from tests.proxy.plain import Line, post, until
from tests.proxy.standin import Handler, Heard, Registry, backend
from tests.support.prompt_server import Serving, serving_prompts

MOST_TURNS = 2  # in one the caller is seen to have gone, in the next its task is told
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Good morning"}]}
WAYS = tuple(product(("/v1/chat/completions", "/api/chat"), (False, True)))


async def hangs_after_its_head(heard: Heard) -> None:
    await heard.start("application/x-ndjson" if heard.path.startswith("/api/") else "text/event-stream")
    await heard.wait_until_left()


class Turns:
    """Counts the turns of a server's loop, between a caller's departure and the end of what was asked for it."""

    def __init__(self, serving: Serving, upstream: UpstreamReply) -> None:
        self.counts = False
        self.between: int | None = None
        self._loop = serving.loop
        self._upstream = upstream
        (self._exchange,) = [c._current for c in serving.server.connections if c._current is not None]
        self._since_gone = 0
        self._loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        self.counts = True
        if self._exchange.gone:
            if self._upstream.over:
                self.between = self._since_gone
                return
            self._since_gone += 1
        self._loop.call_soon(self._turn)


@pytest.mark.parametrize("engine", ["openai", "mlx", "ollama"])
@pytest.mark.parametrize("behaviour", [hangs, hangs_after_its_head, hangs_in_its_stream])
def test_its_engine_is_told_before_anything_else_is_done(
    stack: ExitStack, stand_in: Run, engine: str, behaviour: Handler
) -> None:
    stood = stand_in(behaviour)
    registry = stack.enter_context(Registry([backend("m", engine, stood.url)]))
    said = {
        "admin_api_url": registry.url,
        "admin_api_token": TOKEN,
        "ollama_url": f"http://127.0.0.1:{closed_port()}",
    }
    application = create_app(ProxySettings.model_validate(said))
    serving = stack.enter_context(serving_prompts(application, Limits()))
    wait_for_configuration(serving.url)
    doors = asyncio.run_coroutine_threadsafe(application._dispatcher.doors("m"), serving.loop).result(10)
    flights = doors[0].gate.flights

    def leave(path: str, *, stream: bool) -> None:
        asked = len(stood.heard) + 1
        with Line(serving.port, post(path, json.dumps({**ASKED, "stream": stream}).encode())):
            until(lambda: len(stood.heard) == asked)
            (flight,) = flights
            until(lambda: behaviour is hangs or flight.upstream.headed)
            if stream and behaviour is hangs_in_its_stream:
                until(lambda: not flight.waits_for_first_token)
            turns = Turns(serving, flight.upstream)
            until(lambda: turns.counts)
        until(lambda: turns.between is not None)
        assert turns.between is not None
        assert turns.between <= MOST_TURNS
        until(lambda: stood.heard[-1].left_at is not None)
        assert not flights

    for path, stream in WAYS:
        leave(path, stream=stream)
