"""What goes wrong: by type and group, by model, and the lines about it."""

from boards.parts import NUMBER, RATE, Panel, board, choice, counted_lines, graph, lines, text
from boards.queries import growth, rate, total

_ASKED = "gen_ai_server_request_duration_seconds_count"
_OF = 'gen_ai_request_model=~"$model"'
# Our services say warning and critical; what Go programs say of the same kind is warn and fatal.
_SERIOUS = '{app=~".+"} | level=~"(?i)warn|warning|error|critical|fatal"'
# What the first description of the system says to look for.
_EVENTS = "routing_llm_request|llm_request_completed|mlx_failed_falling_back_to_ollama"
_WRONG = rate("http_server_request_duration_seconds_count", 'http_response_status_code=~"[45].."')


def _failing(title: str, by: str, chosen: str, name: str, note: str = "") -> Panel:
    return graph(title, RATE, (total(by, rate(_ASKED, f"{_OF}, {chosen}")), name), note=note)


_REQUESTS = [
    _failing(
        "By group",
        "error_group",
        'error_group!=""',
        "{{error_group}}",
        "backend counts against the promise; caller and policy do not.",
    ),
    _failing("By type", "error_type", 'error_type!=""', "{{error_type}}"),
    _failing(
        "By model and backend, by our fault",
        "gen_ai_request_model, backend_id",
        'error_group="backend"',
        "{{gen_ai_request_model}} {{backend_id}}",
    ),
    graph("Moved on before the first byte", RATE, (total("reason", rate("athena_requests_moved_total")), "{{reason}}")),
    graph(
        "Streams that were cut",
        RATE,
        (total("", rate("athena_stalled_streams_total")), "the engine fell silent"),
        (total("", rate("athena_caller_left_total")), "the caller left"),
    ),
    graph("Turned away by the HTTP server", RATE, (total("reason", rate("athena_refused_total")), "{{reason}}")),
    graph(
        "Answers of the services that are errors",
        RATE,
        (
            total("service, http_route, http_response_status_code", _WRONG),
            "{{service}} {{http_route}} {{http_response_status_code}}",
        ),
        span=12,
    ),
    graph(
        "Lines of logs that were lost",
        NUMBER,
        (total("job, instance", growth("athena_log_lines_dropped_total")), "{{job}} {{instance}}"),
        span=12,
    ),
]

_LOGS = [
    counted_lines("Warnings and errors", f"sum by (app) (count_over_time({_SERIOUS} [$__interval]))", "{{app}}"),
    counted_lines(
        "A prompt's way",
        f'sum by (event) (count_over_time({{app=~".+"}} | event=~"{_EVENTS}" [$__interval]))',
        "{{event}}",
    ),
    lines("Warnings and errors", _SERIOUS),
    lines(
        "The request",
        # An id that is empty is that of every line without one: where none is given, nothing is shown.
        '{app=~".+"} | request_id!="" | request_id="$request_id"',
        note="All lines of all services about it. Give the answer's x-request-id above, or follow a line's link.",
    ),
]

ERRORS = board(
    "athena-errors",
    "Errors",
    [choice("model", "Model", f"label_values({_ASKED}, gen_ai_request_model)"), text("request_id", "Request")],
    [("Requests", _REQUESTS), ("Logs", _LOGS)],
)
