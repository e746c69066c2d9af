"""The same windows in Redis, for proxies on several hosts: one question for each request of a key that has a limit."""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from athena.proxy.quota_window import SLICE_SECONDS, SLICES, Standing
from athena.router.background import Tasks

REDIS_SECONDS = 1.0  # the longest that a request waits for it
PAUSE_SECONDS = 5.0  # for which it is left alone after a failure: not every request is to wait for it
_CONNECTIONS = 16
_KEPT_SECONDS = int(SLICE_SECONDS * (SLICES + 2))
log = structlog.get_logger()

# Redis' own clock, which all hosts share. A window is a hash of counts by the number of their slice.
_NOW = f"""
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local number = math.floor(now / {SLICE_SECONDS})
"""
_ADMIT = f"""{_NOW}
local function forgotten_in(slice) return (slice + {SLICES + 1}) * {SLICE_SECONDS} - now end
local function standing(window, limit)
    if limit == 0 then return 0, 0, 0 end
    local used, reset, counts, stored = 0, 0, {{}}, redis.call('HGETALL', window)
    for index = 1, #stored, 2 do
        local slice, count = tonumber(stored[index]), tonumber(stored[index + 1])
        if slice < number - {SLICES} then
            redis.call('HDEL', window, stored[index])
        else
            counts[slice] = count
            used = used + count
            reset = math.max(reset, forgotten_in(slice))
        end
    end
    if used < limit then return used, 0, reset end
    local left = used
    for slice = number - {SLICES}, number do
        left = left - (counts[slice] or 0)
        if left < limit then return used, forgotten_in(slice), reset end
    end
    return used, {SLICE_SECONDS}, reset
end
local requests, tokens = tonumber(ARGV[1]), tonumber(ARGV[2])
local used, wait, reset = standing(KEYS[1], requests)
local tokens_used, tokens_wait, tokens_reset = standing(KEYS[2], tokens)
if requests > 0 and wait == 0 and tokens_wait == 0 then
    redis.call('HINCRBY', KEYS[1], number, 1)
    redis.call('EXPIRE', KEYS[1], {_KEPT_SECONDS})
    used, reset = used + 1, forgotten_in(number)
end
local told = {{}}
for index, value in ipairs({{used, wait, reset, tokens_used, tokens_wait, tokens_reset}}) do
    told[index] = tostring(value)
end
return told
"""
_SPEND = f"""{_NOW}
redis.call('HINCRBY', KEYS[1], number, ARGV[1])
redis.call('EXPIRE', KEYS[1], {_KEPT_SECONDS})
"""


class Told(NamedTuple):
    """How the limits of requests and of tokens stand; of one that is none, that nothing was used."""

    requests: Standing
    tokens: Standing


class RedisQuotas:
    """The windows of all keys. No method raises for Redis, or lets a request wait for it for long."""

    def __init__(self, url: str, *, within: float = REDIS_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a redis:// or rediss:// URL; connects when first used. It is away if it takes longer than `within`."""
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=within,
            socket_timeout=within,
            socket_connect_timeout=within,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis: Redis = Redis(connection_pool=pool)
        self._admit = self._redis.register_script(_ADMIT)
        self._spend = self._redis.register_script(_SPEND)
        self._clock = clock
        self._paused_until = 0.0
        self._away = False
        self._spending = Tasks()

    async def admit(self, key_id: int, requests: int | None, tokens: int | None) -> Told | None:
        """Use one of the key's requests unless one of its limits is used up; None: Redis does not say."""
        if self._clock() < self._paused_until:
            return None
        # In a task of its own: the server begins a request outside of any, and there the client's time limits fail.
        return await asyncio.create_task(self._ask(key_id, requests, tokens))

    def spend(self, key_id: int, tokens: int) -> None:
        """Count tokens of a key, in the background."""
        if self._clock() >= self._paused_until:
            self._spending.start(self._send(_names(key_id)[1], tokens))

    async def aclose(self) -> None:
        """Let go of connections; what is just being counted is counted by then."""
        await self._spending.finish()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def _ask(self, key_id: int, requests: int | None, tokens: int | None) -> Told | None:
        try:
            told = await self._admit(keys=_names(key_id), args=[requests or 0, tokens or 0])
            self._note_answer()
            figures = [float(figure) for figure in told]
            return Told(*(Standing(int(used), wait, reset) for used, wait, reset in (figures[:3], figures[3:])))
        except (RedisError, OSError) as error:
            self._pause(error)
            return None

    async def _send(self, name: str, tokens: int) -> None:
        try:
            await self._spend(keys=[name], args=[tokens])
            self._note_answer()
        except (RedisError, OSError) as error:
            self._pause(error)

    def _pause(self, error: Exception) -> None:
        now = self._clock()
        if now < self._paused_until:
            return  # another request has found out
        self._paused_until = now + PAUSE_SECONDS
        if not self._away:
            self._away = True
            log.warning("redis_failed_limits_by_host", error=str(error))

    def _note_answer(self) -> None:
        # Within the pause comes only what was asked before it.
        if self._away and self._clock() >= self._paused_until:
            self._away = False
            log.info("redis_answers_limits_of_all_hosts")


def _names(key_id: int) -> list[str]:
    # The braces keep both on one node, where Redis is a cluster.
    return [f"athena:api-key:{{{key_id}}}:requests", f"athena:api-key:{{{key_id}}}:tokens"]
