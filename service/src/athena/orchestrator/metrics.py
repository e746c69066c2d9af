"""The metrics of the orchestrator: its requests, the steps of its queries, and the replies of the models it asks."""

from bisect import bisect_left

from athena.observability.families import Family, Kind
from athena.observability.gen_ai_metrics import NO_PROVIDER, OTHER_MODEL, GenAiMetrics
from athena.observability.http_metrics import HttpMetrics
from athena.observability.router_metrics import RouterMetrics
from athena.observability.service_metrics import ServiceMetrics
from athena.router.types import Operation, Target, Usage

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
