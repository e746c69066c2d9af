"""Holds the callers to the limits of their API keys: requests and tokens in a minute."""

import time
from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING

from athena.errors import AthenaError
from athena.proxy.quota_window import Standing, Window
from athena.router.board import Board
from athena.router.types import ApiKey

if TYPE_CHECKING:
    from athena.proxy.quota_redis import RedisQuotas

_FREE = Standing(0, 0.0, 0.0)


class RateLimitError(AthenaError):
    """A limit of the caller's API key is used up; `retry_after` says for how long, `fields` how its limits stand."""

    status = 429
    title = "Rate limit reached"
    code = "rate_limit_exceeded"

    def __init__(self, detail: str, *, retry_after: float, fields: bytes) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.fields = fields


class Quota:
    """The limits of one key, of which it has at least one.

    The workers of this host always count together. Where there is Redis, it counts for all hosts, and its word holds;
    while it is away each host counts for itself.
    """

    __slots__ = ("_clock", "_key", "_redis", "_requests", "_tokens")

    def __init__(self, key: ApiKey, board: Board, redis: "RedisQuotas | None", clock: Callable[[], float]) -> None:
        self._key = key
        self._redis = redis
        self._clock = clock
        self._requests = Window(board.slot("api-key", str(key.id), "requests"))
        self._tokens = Window(board.slot("api-key", str(key.id), "tokens"))

    @property
    def counts_tokens(self) -> bool:
        """Whether there is a limit of tokens."""
        return self._key.tokens_per_minute is not None

    async def admit(self) -> bytes:
        """Count one request, and return how the limits stand then, as header lines.

        Raises RateLimitError where the key has used up a limit, and counts nothing then.
        """
        key, now = self._key, self._clock()
        requests = self._requests.look(key.requests_per_minute, now) if key.requests_per_minute is not None else _FREE
        tokens = self._tokens.look(key.tokens_per_minute, now) if key.tokens_per_minute is not None else _FREE
        if not (requests.wait or tokens.wait):  # what this host alone has used up needs no question
            told = None
            if self._redis is not None:
                told = await self._redis.admit(key.id, key.requests_per_minute, key.tokens_per_minute)
            if told is not None:
                requests, tokens = told
                if not (requests.wait or tokens.wait):
                    self._requests.add(1, now)
            elif key.requests_per_minute is not None:
                requests = self._requests.take(key.requests_per_minute, now)
        return self._verdict(requests, tokens)

    def spend(self, tokens: int) -> None:
        """Count the tokens of a prompt and its reply; the requests that follow are held to them."""
        if self.counts_tokens and tokens > 0:
            self._tokens.add(tokens, self._clock())
            if self._redis is not None:
                self._redis.spend(self._key.id, tokens)

    def _verdict(self, requests: Standing, tokens: Standing) -> bytes:
        key = self._key
        limits = (("tokens", key.tokens_per_minute, tokens), ("requests", key.requests_per_minute, requests))
        fields = b"".join([_fields(what, limit, standing) for what, limit, standing in limits if limit is not None])
        for what, limit, standing in limits:
            if standing.wait > 0:
                seconds = max(1, round(standing.wait + 0.5))
                raise RateLimitError(
                    f"The API key {key.prefix}… of {key.name} has used up its {what}_per_minute, which is {limit}; "
                    f"come again in {seconds} s.",
                    retry_after=seconds,
                    fields=fields,
                )
        return fields


def _fields(what: str, limit: int, standing: Standing) -> bytes:
    """Return a limit as OpenAI's headers tell of it: how much, how much of it is left, and when all of it is back."""
    minutes, seconds = divmod(ceil(standing.reset), 60)
    told = {
        "limit": str(limit),
        "remaining": str(max(limit - standing.used, 0)),
        "reset": f"{minutes}m{seconds}s" if minutes else f"{seconds}s",
    }
    return "".join(f"x-ratelimit-{name}-{what}: {value}\r\n" for name, value in told.items()).encode()


class Quotas:
    """Makes the quotas of keys. `board` is that of all workers of this proxy, attached."""

    def __init__(
        self, board: Board, redis: "RedisQuotas | None", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._board = board
        self._redis = redis
        self._clock = clock

    def of(self, key: ApiKey) -> Quota | None:
        """Return what holds a key to its limits; None where it has none."""
        if key.requests_per_minute is None and key.tokens_per_minute is None:
            return None
        return Quota(key, self._board, self._redis, self._clock)
