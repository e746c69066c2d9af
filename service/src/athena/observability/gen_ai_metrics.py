"""What is counted of replies, named after OpenTelemetry's conventions for generative AI, in Prometheus' spelling.

Labels have few values: a model is named only if the registry knows it, an error by the closed table of `error_types`.
The buckets are those that the conventions advise.
"""

from bisect import bisect_left
from typing import Final

from athena.observability import error_types
from athena.observability.error_types import ErrorGroup
from athena.observability.families import Family, Kind
from athena.observability.router_metrics import DEFAULT_BACKEND
from athena.router.types import Operation, Usage

_DURATION_BUCKETS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_PER_TOKEN_BUCKETS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKEN_BUCKETS: Final = tuple(4**power for power in range(14))
_LABELS = ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_provider_name", "backend_id")

OTHER_MODEL: Final = "other"
NO_PROVIDER: Final = "none"
OPERATION_NAMES = {Operation.CHAT: "chat", Operation.GENERATE: "text_completion", Operation.EMBED: "embeddings"}

_Key = tuple[Operation, str, str, int | None, str]


class _Counts:
    """The series of one (operation, model, engine, backend, outcome), looked up once."""

    __slots__ = ("duration", "first_token", "input_tokens", "output_tokens", "per_token", "requests")

    def __init__(self, metrics: "GenAiMetrics", labels: tuple[str, str, str, str], error_type: str) -> None:
        group = error_types.group_of(error_type)
        self.requests = metrics.requests.at(group)
        self.duration = metrics.duration.at(*labels, error_type, group)
        # Where no engine answered there are no tokens, and no series that would say so for ever; a caller that left may
        # have waited for the first one in vain.
        told = metrics if labels[2] != NO_PROVIDER else GenAiMetrics()
        self.first_token = (metrics if error_type == error_types.CANCELLED else told).first_token.at(*labels)
        self.per_token = told.per_token.at(*labels)
        self.input_tokens = told.tokens.at(*labels, "input")
        self.output_tokens = told.tokens.at(*labels, "output")


class GenAiMetrics:
    """The families of a process that answers prompts through a router."""

    def __init__(self) -> None:
        # Promises are judged by these, which are there from the start, at 0: of a series that appears with its first
        # error, Prometheus does not know that there was none before.
        self.requests = Family(
            Kind.COUNTER,
            "athena_requests",
            "Requests for a reply, by who was at fault where it did not come whole; error_group is empty where it did.",
            ("error_group",),
        )
        for group in ("", *ErrorGroup):
            self.requests.at(group)
        self.duration = Family(
            Kind.HISTOGRAM,
            "gen_ai_server_request_duration_seconds",
            "Time from a request's arrival to the end of its reply; error_type is empty where that came whole.",
            (*_LABELS, "error_type", "error_group"),
            bounds=_DURATION_BUCKETS,
        )
        self.first_token = Family(
            Kind.HISTOGRAM,
            "gen_ai_server_time_to_first_token_seconds",
            "Time from a request's arrival to the first token of its stream, or until its caller gave up after 2.5 s.",
            _LABELS,
            bounds=_FIRST_TOKEN_BUCKETS,
        )
        self.per_token = Family(
            Kind.HISTOGRAM,
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between the tokens of a stream, after the first.",
            _LABELS,
            bounds=_PER_TOKEN_BUCKETS,
        )
        self.tokens = Family(
            Kind.HISTOGRAM,
            "gen_ai_client_token_usage",
            "Tokens that a reply read (input) and wrote (output), as its engine counted them.",
            (*_LABELS, "gen_ai_token_type"),
            bounds=_TOKEN_BUCKETS,
        )
        self.families = (self.requests, self.duration, self.first_token, self.per_token, self.tokens)
        self._counts: dict[_Key, _Counts] = {}

    def record(
        self,
        operation: Operation,
        model: str,
        provider: str,
        backend_id: int | None,
        error_type: str,
        *,
        seconds: float,
        first_token: float | None,
        usage: Usage | None,
    ) -> None:
        """Count one request. `first_token` is the time to it in seconds, None where no stream was given, or waited for.

        `model` is one that the registry knows, or OTHER_MODEL. `provider` is the engine type that answered, or
        NO_PROVIDER; `backend_id` that engine's row, None where it has none. `error_type` is empty or one of
        `error_types`; anything else counts as "other".
        """
        counts = self._counts.get((operation, model, provider, backend_id, error_type))
        if counts is None:
            counts = self._learn(operation, model, provider, backend_id, error_type)
        counts.requests.value += 1
        duration = counts.duration
        duration.counts[bisect_left(_DURATION_BUCKETS, seconds)] += 1
        duration.value += seconds
        if first_token is not None:
            first = counts.first_token
            first.counts[bisect_left(_FIRST_TOKEN_BUCKETS, first_token)] += 1
            first.value += first_token
        if usage is not None:
            read, written = usage.prompt_tokens, usage.completion_tokens
            tokens = counts.input_tokens
            tokens.counts[bisect_left(_TOKEN_BUCKETS, read)] += 1
            tokens.value += read
            tokens = counts.output_tokens
            tokens.counts[bisect_left(_TOKEN_BUCKETS, written)] += 1
            tokens.value += written
            if first_token is not None and written > 1:
                each = (seconds - first_token) / (written - 1)
                per_token = counts.per_token
                per_token.counts[bisect_left(_PER_TOKEN_BUCKETS, each)] += 1
                per_token.value += each

    def _learn(
        self, operation: Operation, model: str, provider: str, backend_id: int | None, error_type: str
    ) -> _Counts:
        told = error_types.named(error_type)
        if told == "model_not_found" and model != OTHER_MODEL:
            told = error_types.REGISTERED_MODEL_MISSING
        backend = str(backend_id) if backend_id is not None else DEFAULT_BACKEND if provider != NO_PROVIDER else ""
        counts = _Counts(self, (OPERATION_NAMES[operation], model, provider, backend), told)
        if told != error_types.OTHER:
            self._counts[operation, model, provider, backend_id, error_type] = counts
        return counts
