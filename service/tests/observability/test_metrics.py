"""The metrics of a proxy, as Prometheus reads them."""

import re
from collections.abc import Iterator
from random import Random

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from athena.observability.error_types import GROUPS, ErrorGroup
from athena.observability.exposition import text_of
from athena.observability.families import Family, Kind
from athena.observability.gen_ai_metrics import NO_PROVIDER, OTHER_MODEL, GenAiMetrics
from athena.observability.proxy_metrics import ProxyMetrics
from athena.observability.router_metrics import BackendReading
from athena.router.errors import NoBackendError, StreamBrokenError
from athena.router.types import Operation, Usage

LABELS = ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_provider_name", "backend_id")
DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKENS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
PER_TOKENS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


class Library:
    """The same metrics, kept and written by Prometheus' own library."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "athena_requests",
            "Requests for a reply, by who was at fault where it did not come whole; error_group is empty where it did.",
            ("error_group",),
            registry=self.registry,
        )
        for group in ("", *ErrorGroup):
            self.requests.labels(group)
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Time from a request's arrival to the end of its reply; error_type is empty where that came whole.",
            (*LABELS, "error_type", "error_group"),
            buckets=DURATIONS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from a request's arrival to the first token of its stream, or until its caller gave up after 2.5 s.",
            LABELS,
            buckets=FIRST_TOKENS,
            registry=self.registry,
        )
        self.per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between the tokens of a stream, after the first.",
            LABELS,
            buckets=PER_TOKENS,
            registry=self.registry,
        )
        self.tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens that a reply read (input) and wrote (output), as its engine counted them.",
            (*LABELS, "gen_ai_token_type"),
            buckets=TOKENS,
            registry=self.registry,
        )

    def record(
        self, labels: tuple[str, str, str, str], error: str, seconds: float, first: float | None, usage: Usage | None
    ) -> None:
        group = GROUPS[error] if error else ""
        self.requests.labels(group).inc()
        self.duration.labels(*labels, error, group).observe(seconds)
        first_token, per_token = self.first_token.labels(*labels), self.per_token.labels(*labels)
        read, written = self.tokens.labels(*labels, "input"), self.tokens.labels(*labels, "output")
        if first is not None:
            first_token.observe(first)
        if usage is not None:
            read.observe(usage.prompt_tokens)
            written.observe(usage.completion_tokens)
            if first is not None and usage.completion_tokens > 1:
                per_token.observe((seconds - first) / (usage.completion_tokens - 1))


def without_times(text: str) -> str:
    """Return the text without the moments at which series were made."""
    return re.sub(r"(?m)^(\w+_created(?:\{.*\})?) .*$", r"\1", text)


def records(count: int) -> Iterator[tuple[tuple[str, str, str, str], str, float, float | None, Usage | None]]:
    """Yield requests of every sort, on the bounds of buckets as well as between them."""
    chance = Random(7)  # noqa: S311 - any numbers do, and the same ones each time
    for _ in range(count):
        model = chance.choice(("llama", 'a "quoted" one', "back\\slash", "two\nlines", "größe 🙂"))
        operation = chance.choice(("chat", "text_completion"))
        labels = (operation, model, chance.choice(("ollama", "mlx")), chance.choice(("1", "22", "default")))
        error = chance.choice(("", "", "cancelled", StreamBrokenError.code, NoBackendError.code))
        seconds = chance.choice((*DURATIONS, 0.0, 1000.0, chance.expovariate(1)))
        first = chance.choice((None, *FIRST_TOKENS, chance.random()))
        written = chance.choice((0, 1, 2, 17, 123_456_789))
        usage = chance.choice((None, Usage(prompt_tokens=chance.randrange(5000), completion_tokens=written)))
        yield labels, error, seconds, first, usage


def test_prometheus_reads_what_its_own_library_would_have_told_of_the_same_requests() -> None:
    metrics, library = GenAiMetrics(), Library()
    operations = {"chat": Operation.CHAT, "text_completion": Operation.GENERATE}
    for labels, error, seconds, first, usage in records(3000):
        library.record(labels, error, seconds, first, usage)
        operation, model, provider, backend = labels
        number = None if backend == "default" else int(backend)
        metrics.record(
            operations[operation], model, provider, number, error, seconds=seconds, first_token=first, usage=usage
        )
    expected = without_times(generate_latest(library.registry).decode())
    told = "".join(text_of(family, family.series()) for family in metrics.families)
    assert without_times(told) == expected


def samples(metrics: ProxyMetrics) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the values by sample name and label values, those in the order of the labels' names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            key = tuple(value for _, value in sorted(sample.labels.items()))
            assert key not in found.setdefault(sample.name, {})
            found[sample.name][key] = sample.value
    return found


def record(metrics: ProxyMetrics, error_type: str) -> None:
    metrics.replies.record(Operation.CHAT, "m", "ollama", 1, error_type, seconds=1.0, first_token=None, usage=None)


def test_errors_are_named_by_the_table_and_by_nothing_else() -> None:
    metrics = ProxyMetrics()
    for error_type in ("", "cancelled", "shutdown", "overloaded", "connection to 10.0.0.7 refused", "at 12:00"):
        record(metrics, error_type)
        record(metrics, error_type)
    requests = samples(metrics)["gen_ai_server_request_duration_seconds_count"]
    assert {(error_type, group): value for (_, group, error_type, *_), value in requests.items()} == {
        ("", ""): 2,
        ("cancelled", "caller"): 2,
        ("shutdown", "backend"): 2,
        ("overloaded", "backend"): 2,
        ("other", "backend"): 4,
    }


def test_a_model_that_no_engine_has_is_the_callers_mistake_only_where_the_registry_does_not_have_it_either() -> None:
    metrics = GenAiMetrics()
    for model in ("registered", OTHER_MODEL):
        for _ in range(2):
            metrics.record(
                Operation.CHAT, model, NO_PROVIDER, None, "model_not_found", seconds=1, first_token=None, usage=None
            )
    assert [(one.labels[1], *one.labels[3:], sum(one.counts)) for one in metrics.duration.series()] == [
        ("registered", "", "registered_model_missing", "backend", 2),
        (OTHER_MODEL, "", "model_not_found", "caller", 2),
    ]


def test_each_backend_shows_its_state_its_limit_and_its_queue() -> None:
    metrics = ProxyMetrics()
    backends = [
        BackendReading("3", "llama", "mlx", "half_open", in_use=2, limit=8, queued=5, trips=1),
        BackendReading("default", "llama", "ollama", "closed", in_use=1, limit=1, queued=0, trips=0),
    ]
    metrics.router.watch_backends(lambda: backends)
    found = samples(metrics)
    mlx, ollama = ("3", "llama", "mlx"), ("default", "llama", "ollama")
    assert found["athena_backend_state"] == {
        (*mlx, "closed"): 0,
        (*mlx, "open"): 0,
        (*mlx, "half_open"): 1,
        (*ollama, "closed"): 1,
        (*ollama, "open"): 0,
        (*ollama, "half_open"): 0,
    }
    assert found["athena_backend_in_use"] == {mlx: 2, ollama: 1}
    assert found["athena_backend_limit"] == {mlx: 8, ollama: 1}
    assert found["athena_backend_queued"] == {mlx: 5, ollama: 0}
    assert found["athena_backend_trips_total"] == {mlx: 1, ollama: 0}


def test_what_happens_to_requests_on_their_way_is_counted() -> None:
    metrics = ProxyMetrics()
    for seconds in (0.003, 0.02, 500.0):
        metrics.router.waited(seconds)
    metrics.router.moved("timeout")
    metrics.router.moved("timeout")
    metrics.router.moved("refused")
    metrics.router.stalled()
    metrics.caller_left()
    metrics.unread_stream()
    metrics.watch_server(connections=lambda: 12, refusals=dict, tasks=lambda: 3)
    found = samples(metrics)
    assert found["athena_queue_wait_seconds_count"] == {(): 3}
    assert found["athena_queue_wait_seconds_sum"][()] == pytest.approx(500.023)
    assert found["athena_queue_wait_seconds_bucket"][("0.005",)] == 1
    assert found["athena_queue_wait_seconds_bucket"][("120.0",)] == 2
    assert found["athena_requests_moved_total"] == {("timeout",): 2, ("refused",): 1}
    assert found["athena_stalled_streams_total"] == {(): 1}
    assert found["athena_caller_left_total"] == {(): 1}
    assert found["athena_unread_streams_total"] == {(): 1}
    assert found["athena_connections"] == {(): 12}
    assert found["athena_event_loop_tasks"] == {(): 3}
    assert found["athena_log_lines_dropped_total"] == {(): 0}


def test_reasons_that_are_made_up_do_not_become_series_without_end() -> None:
    metrics = ProxyMetrics()
    for number in range(1000):
        metrics.router.moved(f"reason {number}")
    moved = samples(metrics)["athena_requests_moved_total"]
    assert len(moved) < 50
    assert sum(moved.values()) == 1000


def test_a_name_without_series_yet_is_told_all_the_same() -> None:
    text = ProxyMetrics().exposition().decode()
    assert "# TYPE athena_requests_moved_total counter\n" in text
    assert "# TYPE athena_backend_state gauge\n" in text


def test_counts_beyond_a_million_have_the_librarys_form_as_well() -> None:
    family = Family(Kind.HISTOGRAM, "x", "Many.", bounds=(1.0, 2.0))
    (series,) = family.series()
    series.counts[:] = [999_999, 1, 1_234_567]
    assert [line.rpartition(" ")[2] for line in text_of(family, [series]).splitlines() if line.startswith("x_b")] == [
        floatToGoString(count)  # type: ignore[no-untyped-call]
        for count in (999_999, 1_000_000, 2_234_567)
    ]
