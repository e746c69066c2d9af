"""The metrics of the orchestrator: its requests, the steps of its queries, and the replies of the models it asks."""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import partial

from athena.observability.families import Family, Kind
from athena.observability.gen_ai_metrics import NO_PROVIDER, OTHER_MODEL, GenAiMetrics
from athena.observability.http_metrics import HttpMetrics
from athena.observability.router_metrics import RouterMetrics
from athena.observability.service_metrics import ServiceMetrics
from athena.orchestrator.conversations import Conversations
from athena.router.types import Operation, Target, Usage

HOLD_SECONDS = 1.0  # that what Redis said is told again without asking it
_STEP_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)


class OrchestratorMetrics(ServiceMetrics):
    """The metrics of one orchestrator. What the router counts by itself is in `router`."""

    def __init__(self) -> None:
        super().__init__("orchestrator")
        self.http = HttpMetrics()
        self.router = RouterMetrics()
        self._replies = GenAiMetrics()
        self._steps = Family(
            Kind.HISTOGRAM,
            "athena_query_step_seconds",
            "Time that a step of a query took, whether or not a model answered it.",
            ("step",),
            bounds=_STEP_BUCKETS,
        )
        self.add(self.http.duration, self._steps, *self._replies.families, *self.router.families)
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._redis: Mapping[str, float] = {}
        for name, documentation in (
            ("redis_up", "Whether the Redis that holds conversations answered just now."),
            ("redis_memory_used_bytes", "Memory that this Redis has taken."),
            ("redis_connected_clients", "Connections of clients to this Redis."),
        ):
            self.gauges(name, documentation, (), partial(self._of_redis, name))

    async def read(self, conversations: Conversations) -> bytes:
        """Return all metrics in Prometheus' text format, those of a Redis with the conversations among them.

        A Redis in a cluster is reached by the orchestrator alone, and so by no exporter outside.
        """
        async with self._reading:
            if time.monotonic() - self._read_at >= HOLD_SECONDS:
                self._redis = await conversations.figures()
                self._read_at = time.monotonic()
        return self.exposition()

    def _of_redis(self, name: str) -> Iterator[tuple[tuple[str, ...], float]]:
        if name in self._redis:
            yield (), self._redis[name]

    def step(
        self,
        name: str,
        model: str,
        *,
        known: bool,
        target: Target | None,
        error_type: str,
        seconds: float,
        usage: Usage | None,
    ) -> None:
        """Count a step, which is one question to one model. `known` says that the registry has the model; `target`
        answered, None where nobody did; `error_type` is empty or one of `error_types`.
        """
        steps = self._steps.at(name)
        steps.counts[bisect_left(_STEP_BUCKETS, seconds)] += 1
        steps.value += seconds
        self._replies.record(
            Operation.CHAT,
            model if known else OTHER_MODEL,
            target.engine if target is not None else NO_PROVIDER,
            target.backend.id if target is not None else None,
            error_type,
            seconds=seconds,
            first_token=None,
            usage=usage,
        )
