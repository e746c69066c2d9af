"""Holds the callers to the limits of their API keys: requests and tokens in a minute."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from athena.errors import AthenaError
from athena.proxy.quota_window import Window
from athena.router.board import Board
from athena.router.types import ApiKey

if TYPE_CHECKING:
    from athena.proxy.quota_redis import RedisQuotas


class RateLimitError(AthenaError):
    """A limit of the caller's API key is used up; `retry_after` says for how long."""

    status = 429
    title = "Rate limit reached"
    code = "rate_limit_exceeded"


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

    async def admit(self) -> None:
        """Count one request; raises RateLimitError where the key has used up a limit, and counts nothing then."""
        key, now = self._key, self._clock()
        if key.tokens_per_minute is not None:
            self._refuse_for("tokens_per_minute", key.tokens_per_minute, self._tokens.wait(key.tokens_per_minute, now))
        if self._redis is not None:
            # What this host alone has used up needs no question.
            if key.requests_per_minute is not None:
                self._refuse_requests(self._requests.wait(key.requests_per_minute, now))
            waits = await self._redis.admit(key.id, key.requests_per_minute, key.tokens_per_minute)
            if waits is not None:
                if key.tokens_per_minute is not None:
                    self._refuse_for("tokens_per_minute", key.tokens_per_minute, waits.tokens)
                self._refuse_requests(waits.requests)
                if key.requests_per_minute is not None:
                    self._requests.add(1, now)
                return
        if key.requests_per_minute is not None:
            self._refuse_requests(self._requests.take(key.requests_per_minute, now))

    def spend(self, tokens: int) -> None:
        """Count the tokens of a prompt and its reply; the requests that follow are held to them."""
        if self.counts_tokens and tokens > 0:
            self._tokens.add(tokens, self._clock())
            if self._redis is not None:
                self._redis.spend(self._key.id, tokens)

    def _refuse_requests(self, wait: float) -> None:
        if self._key.requests_per_minute is not None:
            self._refuse_for("requests_per_minute", self._key.requests_per_minute, wait)

    def _refuse_for(self, limit: str, value: int, wait: float) -> None:
        if wait > 0:
            key = self._key
            seconds = max(1, round(wait + 0.5))
            raise RateLimitError(
                f"The API key {key.prefix}… of {key.name} has used up its {limit}, which is {value}; "
                f"come again in {seconds} s.",
                retry_after=seconds,
            )


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
