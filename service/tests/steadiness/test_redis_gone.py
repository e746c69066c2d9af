"""Redis is killed in the middle of traffic and comes back: prompts go on, and the limits of API keys with them."""

import asyncio
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from athena.proxy.quota_redis import PAUSE_SECONDS, RedisQuotas
from tests.steadiness.world import World, until
from tests.support.caller import OLLAMA_CHAT, OPENAI_CHAT, Caller
from tests.support.faults.wire import reply_to
from tests.support.redis_server import RedisServer
from tests.support.registry import backend

BUSY, FEW = 1, 2  # ids of keys: of one that asks all the time, and of one with a small limit
SHARED = (3, 4, 5, 6, 7)  # of keys with this limit that another host uses up
LIMIT = 3
CALLERS = 8
ENOUGH = 50  # answers that show that traffic goes on
LONGEST = 10.0  # seconds that no answer may take


def headers(number: int) -> dict[str, str]:
    """Return what a request has with the key of that id."""
    return {"x-api-key": f"a key of these tests {number}"}


def api_key(number: int, requests_per_minute: int) -> dict[str, Any]:
    """Return what the registry says of a key."""
    return {
        "id": number,
        "name": f"caller-{number}",
        "prefix": "a key",
        "digest": sha256(headers(number)["x-api-key"].encode()).hexdigest(),
        "scopes": ["prompts"],
        "requests_per_minute": requests_per_minute,
    }


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


class Traffic:
    """Callers that ask one thing after the other until it is over."""

    def __init__(self, url: str) -> None:
        self.answers = 0
        self.over = False
        self._url = url

    async def run(self) -> None:
        """Ask; every answer must be right."""
        await asyncio.gather(*(self._call(lane) for lane in range(CALLERS)))

    async def goes_on(self) -> None:
        """Wait for some more answers."""
        enough = self.answers + ENOUGH
        await until(lambda: self.answers >= enough, 30)

    async def _call(self, lane: int) -> None:
        path = (OPENAI_CHAT, OLLAMA_CHAT)[lane % 2]
        async with Caller(self._url, headers=headers(BUSY)) as caller:
            while not self.over:
                prompt = f"prompt {self.answers}"
                async with asyncio.timeout(LONGEST):
                    answer = await caller.ask(path, "m", prompt, stream=lane % 4 > 1)
                assert answer.complete, answer
                assert answer.text == "".join(reply_to(prompt))
                self.answers += 1


async def statuses(url: str, number: int, times: int) -> list[int]:
    """Ask with a key a few times, and return what became of it."""
    async with Caller(url, headers=headers(number)) as caller:
        return [(await caller.ask(OPENAI_CHAT, "m", "prompt")).status for _ in range(times)]


async def asks_until_refused(url: str, another_host: RedisQuotas) -> int:
    """Ask once with each key that another host has just used up; return how many were answered before one was refused.

    One refusal shows that the hosts count together. A machine that is busy may let Redis seem away for a moment again.
    """
    for asked, number in enumerate(SHARED):
        for _ in range(LIMIT):
            assert await another_host.admit(number, LIMIT, None) is not None
        if await statuses(url, number, 1) == [429]:
            return asked
        await asyncio.sleep(PAUSE_SECONDS)
    raise AssertionError("the hosts do not count together")


@pytest.mark.slow
async def test_prompts_and_limits_go_on_while_redis_is_gone_and_hosts_count_together_when_it_is_back(
    scene: World, redis_server: RedisServer
) -> None:
    scene.registry.keys = [api_key(BUSY, 1_000_000), *(api_key(number, LIMIT) for number in (FEW, *SHARED))]
    row = backend(1, "m", "openai", scene.engine().url, max_concurrency=100)
    proxy = scene.proxy(row, REDIS_URL=redis_server.url, PROXY_ASK_FOR_KEYS="true")
    client = redis.Redis.from_url(redis_server.url)
    another_host = RedisQuotas(redis_server.url, within=LONGEST)
    traffic = Traffic(proxy.url)

    def counted() -> int:
        counts = client.hvals(f"athena:api-key:{{{BUSY}}}:requests")
        return sum(map(int, cast(list[bytes], counts)))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.run())
            await traffic.goes_on()
            assert counted() >= ENOUGH

            await asyncio.to_thread(redis_server.stop)
            await traffic.goes_on()
            assert await statuses(proxy.url, FEW, LIMIT + 2) == [200] * LIMIT + [429] * 2

            await asyncio.to_thread(redis_server.start)
            await until(counted, PAUSE_SECONDS * 6)  # nothing that was counted before has outlived it
            asked = await asks_until_refused(proxy.url, another_host)
            traffic.over = True
    finally:
        await another_host.aclose()
        client.close()
    answers = traffic.answers + LIMIT + asked
    assert proxy.metric("gen_ai_server_request_duration_seconds_count", error_type="") == answers
    proxy.server.told("redis_answers_limits_of_all_hosts")
    told = [line["event"] for line in proxy.server.lines() if line["event"].startswith("redis_")]
    assert told == ["redis_failed_limits_by_host", "redis_answers_limits_of_all_hosts"] * (len(told) // 2)
    assert proxy.server.complaints() == []
