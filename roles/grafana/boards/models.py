"""Each model and each of its backends: how fast, how busy, and which arm of a comparison does better."""

from boards.parts import NUMBER, RATE, SECONDS, SHARE, Panel, board, choice, graph
from boards.queries import growth, least, medians, of, quantile, rate, total

_ASKED = "gen_ai_server_request_duration_seconds_count"
_EACH = "gen_ai_server_time_per_output_token_seconds"
_MODEL = 'gen_ai_request_model=~"$model"'
_OF = f'{_MODEL}, backend_id=~"$backend"'
_AT = 'model=~"$model", backend_id=~"$backend"'
_BY = "gen_ai_request_model, backend_id, gen_ai_provider_name"
_BACKEND = "backend_id, model, provider"
_NAME = "{{gen_ai_request_model}} · {{gen_ai_provider_name}} {{backend_id}}"
_BACKEND_NAME = "{{model}} · {{provider}} {{backend_id}}"
_REPLIES = rate(_ASKED, f'{_OF}, backend_id!="", error_type=""')
_SPEED = f"{total(_BY, rate(f'{_EACH}_count', _OF))} / {total(_BY, rate(f'{_EACH}_sum', _OF))}"
_PART = f"{total(_BY, _REPLIES)} / on (gen_ai_request_model) group_left () {total('gen_ai_request_model', _REPLIES)}"
_WRITTEN = rate("gen_ai_client_token_usage_sum", f'{_OF}, gen_ai_token_type="output"')
_CLOSED = of("athena_backend_state", f'{_AT}, state="closed"')
_ARM_REPLIES = rate("athena_arm_replies_total", 'model=~"$model", outcome="whole"')
_ARM_PART = f"{total('model, arm', _ARM_REPLIES)} / on (model) group_left () {total('model', _ARM_REPLIES)}"
_ARM_ASKED = total("model, arm", rate("athena_arm_replies_total", 'model=~"$model"'))
_ARM_FAILED = total("model, arm", rate("athena_arm_replies_total", 'model=~"$model", outcome="failed"'))
_FAILED = rate(_ASKED, f'{_MODEL}, error_group="backend"')
_IN_USE = f"{total(_BACKEND, of('athena_backend_in_use', _AT))} / {total(_BACKEND, of('athena_backend_limit', _AT))}"


def _share(title: str, histogram: str, share: float) -> Panel:
    return graph(title, SECONDS, (quantile(share, histogram, _BY, _OF), _NAME))


_SPEEDS = [
    graph("Tokens per second of a stream", RATE, (_SPEED, _NAME), note="After the first token; what a caller sees."),
    graph("Tokens per second of all", RATE, (total(_BY, _WRITTEN), _NAME)),
    _share("A reply, p95", "gen_ai_server_request_duration_seconds", 0.95),
    _share("First token, p50", "gen_ai_server_time_to_first_token_seconds", 0.5),
    _share("First token, p95", "gen_ai_server_time_to_first_token_seconds", 0.95),
    _share("A token, p95", _EACH, 0.95),
]

_ARMS = [
    graph(
        "Share of the model's replies",
        SHARE,
        (_PART, _NAME),
        stacked=True,
        note="What arrived, beside the weights that the registry asks for.",
    ),
    graph("Replies", RATE, (total(_BY, _REPLIES), _NAME)),
    graph(
        "Requests that failed, by model",
        RATE,
        (total("gen_ai_request_model, error_type", _FAILED), "{{gen_ai_request_model}} {{error_type}}"),
    ),
    graph(
        "Share of each arm",
        SHARE,
        (_ARM_PART, "{{model}} · {{arm}}"),
        stacked=True,
        note="Of models whose backends are of several arms; that of a canary grows by itself.",
    ),
    graph("Failed, of what an arm was asked", SHARE, (f"{_ARM_FAILED} / {_ARM_ASKED}", "{{model}} · {{arm}}")),
    graph(
        "First token of an arm, p95",
        SECONDS,
        (quantile(0.95, "athena_arm_first_token_seconds", "model, arm", 'model=~"$model"'), "{{model}} · {{arm}}"),
    ),
]

_QUEUES = [
    graph("Waiting", NUMBER, (total(_BACKEND, of("athena_backend_queued", _AT)), _BACKEND_NAME)),
    graph("Served, of what the backend takes at once", SHARE, (_IN_USE, _BACKEND_NAME)),
    graph("Time in the queue", SECONDS, *medians("athena_queue_wait_seconds"), note="Of those that had to wait."),
    graph(
        "Left out of its route",
        NUMBER,
        (f"1 - {least(_BACKEND, _CLOSED)}", _BACKEND_NAME),
        note="1: the breaker is open, or on trial.",
    ),
    graph(
        "Openings of the breaker", NUMBER, (total(_BACKEND, growth("athena_backend_trips_total", _AT)), _BACKEND_NAME)
    ),
    graph("Moved on to the next backend", RATE, (total("reason", rate("athena_requests_moved_total")), "{{reason}}")),
]

MODELS = board(
    "athena-models",
    "Models",
    [
        choice("model", "Model", f"label_values({_ASKED}, gen_ai_request_model)"),
        choice("backend", "Backend", f"label_values({_ASKED}, backend_id)"),
    ],
    [("Speed", _SPEEDS), ("Arms of a comparison", _ARMS), ("Queues and breakers", _QUEUES)],
)
