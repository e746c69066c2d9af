"""What was said so far: in Redis for all replicas, or in the memory of this process."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from athena.orchestrator.intents import ConversationLimits

REDIS_SECONDS = 1.0
PAUSE_SECONDS = 5.0
ANSWERS = "redis_up"
# What Redis itself tells, by the names that its usual exporter gives that.
_TOLD = {"redis_memory_used_bytes": "used_memory", "redis_connected_clients": "connected_clients"}
log = structlog.get_logger()


class Turn(msgspec.Struct, frozen=True):
    """One question and its answer."""

    question: str
    answer: str


class Conversations(Protocol):
    """Keeps the last turns of each conversation for a while. A key is whatever the caller makes it."""

    async def turns(self, key: str) -> Sequence[Turn]:
        """Return the turns kept, oldest first; none for a conversation that is not known or has run out."""
        ...

    async def add(self, key: str, turn: Turn) -> None:
        """Add a turn and start the conversation's time anew."""
        ...

    async def state(self) -> str:
        """Return how this store is, in a word for /health."""
        ...

    async def figures(self) -> Mapping[str, float]:
        """Return the figures of a server that holds them, as an exporter would name them; none where there is none."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


class MemoryConversations:
    """Conversations of this process, the least recently used of which make room for new ones."""

    def __init__(self, limits: ConversationLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, deque[Turn]]] = OrderedDict()

    async def turns(self, key: str) -> Sequence[Turn]:
        """Return the turns kept, oldest first."""
        until, turns = self._kept.get(key, (0.0, deque()))
        return list(turns) if until > self._clock() else []

    async def add(self, key: str, turn: Turn) -> None:
        """Add a turn and start the conversation's time anew."""
        turns = deque(await self.turns(key), maxlen=self._limits.turns)
        turns.append(turn)
        self._kept[key] = (self._clock() + self._limits.ttl_seconds, turns)
        self._kept.move_to_end(key)
        while len(self._kept) > self._limits.in_memory:
            self._kept.popitem(last=False)

    async def state(self) -> str:
        """Say that this is memory."""
        return "memory"

    async def figures(self) -> Mapping[str, float]:
        """Return none: the process tells of its memory."""
        return {}

    async def aclose(self) -> None:
        """Nothing to let go of."""


class RedisConversations:
    """Conversations in Redis; while it is out of reach those that this process has seen go on from memory.

    No method raises for Redis. After a failure it is left alone for a few seconds: not every query is to wait for it.
    """

    def __init__(self, url: str, limits: ConversationLimits, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a redis:// or rediss:// URL; connects when first used."""
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._limits = limits
        self._clock = clock
        self._memory = MemoryConversations(limits, clock)
        self._paused_until = 0.0

    async def turns(self, key: str) -> Sequence[Turn]:
        """Return the turns kept, oldest first."""
        if self._clock() < self._paused_until:
            return await self._memory.turns(key)
        try:
            kept = await self._redis.lrange(_name(key), -self._limits.turns, -1)
            return [msgspec.json.decode(turn, type=Turn) for turn in kept]
        except (RedisError, OSError, msgspec.DecodeError) as error:
            self._pause(error)
            return await self._memory.turns(key)

    async def add(self, key: str, turn: Turn) -> None:
        """Add a turn and start the conversation's time anew."""
        await self._memory.add(key, turn)
        if self._clock() < self._paused_until:
            return
        name = _name(key)
        try:
            async with self._redis.pipeline(transaction=True) as together:
                together.rpush(name, msgspec.json.encode(turn))
                together.ltrim(name, -self._limits.turns, -1)
                together.expire(name, self._limits.ttl_seconds)
                await together.execute()
        except (RedisError, OSError) as error:
            self._pause(error)

    async def state(self) -> str:
        """Ask Redis itself."""
        try:
            await self._redis.ping()
        except (RedisError, OSError):
            return "unavailable"
        self._paused_until = 0.0
        return "healthy"

    async def figures(self) -> Mapping[str, float]:
        """Ask Redis itself; of one that does not answer, that it does not."""
        try:
            told = await self._redis.info()
        except (RedisError, OSError):
            return {ANSWERS: 0.0}
        return {ANSWERS: 1.0, **{name: float(told[field]) for name, field in _TOLD.items()}}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _pause(self, error: Exception) -> None:
        self._paused_until = self._clock() + PAUSE_SECONDS
        log.warning("redis_failed_using_memory", error=_words(error), seconds=PAUSE_SECONDS)


def _words(error: Exception) -> str:
    """Return what a log may say: Redis' own complaint quotes what it was sent, so of that the code, such as OOM."""
    return str(error).partition(" ")[0] if isinstance(error, ResponseError) else str(error)


def _name(key: str) -> str:
    return f"athena:conversation:{key}"
