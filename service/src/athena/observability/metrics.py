"""Metrics of the model proxy, named after OpenTelemetry's conventions for generative AI, in Prometheus' spelling.

Labels have few values: a model is named only if the registry knows it, an error by its class.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from athena.router.types import Usage

_DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_LABELS = ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_provider_name")

OTHER_MODEL = "other"
NO_PROVIDER = "none"
CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Series:
    """The children of one (operation, model, engine, outcome), looked up once."""

    __slots__ = ("duration", "first_token", "input_tokens", "output_tokens", "per_token", "requests")

    def __init__(self, metrics: "ProxyMetrics", labels: tuple[str, str, str], error_type: str) -> None:
        self.requests = metrics.requests.labels(*labels, error_type)
        self.duration = metrics.duration.labels(*labels, error_type)
        self.first_token = metrics.first_token.labels(*labels)
        self.per_token = metrics.per_token.labels(*labels)
        self.input_tokens = metrics.tokens.labels(*labels, "input")
        self.output_tokens = metrics.tokens.labels(*labels, "output")


class ProxyMetrics:
    """The metrics of one proxy, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gen_ai_server_requests",
            "Requests for a reply; error_type is empty where the caller got the whole of it.",
            (*_LABELS, "error_type"),
            registry=self.registry,
        )
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Time from a request's arrival to the end of its reply.",
            (*_LABELS, "error_type"),
            buckets=_DURATION_BUCKETS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from a request's arrival to the first token of its stream.",
            _LABELS,
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self.per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between the tokens of a stream, after the first.",
            _LABELS,
            buckets=_PER_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "gen_ai_client_token_usage",
            "Tokens read (input) and written (output), as the engines counted them.",
            (*_LABELS, "gen_ai_token_type"),
            registry=self.registry,
        )
        self.active = Gauge(
            "http_server_active_requests", "Requests for a reply that are being served.", registry=self.registry
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._series: dict[tuple[str, str, str, str], _Series] = {}

    def gauge(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is asked for when the metrics are read."""
        Gauge(name, documentation, registry=self.registry).set_function(value)

    def record(
        self,
        operation: str,
        model: str,
        provider: str,
        error_type: str,
        *,
        seconds: float,
        first_token: float | None,
        usage: Usage | None,
    ) -> None:
        """Count one request. `first_token` is the time to it in seconds, None where no stream was given."""
        key = (operation, model, provider, error_type)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(self, (operation, model, provider), error_type)
        series.requests.inc()
        series.duration.observe(seconds)
        if first_token is not None:
            series.first_token.observe(first_token)
        if usage is not None:
            series.input_tokens.inc(usage.prompt_tokens)
            series.output_tokens.inc(usage.completion_tokens)
            if first_token is not None and usage.completion_tokens > 1:
                series.per_token.observe((seconds - first_token) / (usage.completion_tokens - 1))

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
