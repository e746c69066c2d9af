"""The first look: are the promises kept, what is asked, what is in force."""

from boards.parts import AGE, NUMBER, RATE, SECONDS, SHARE, Panel, board, figure, graph, names, rows
from boards.queries import least, medians, most, rate, total

_ASKED = "gen_ai_server_request_duration_seconds_count"
_BY_GROUP = total("error_group", rate(_ASKED, 'error_group!=""'))


def _burn(title: str, budget: str) -> Panel:
    windows = [(f"athena:{budget}:burn{window}", window) for window in ("1h", "6h", "3d")]
    return graph(title, NUMBER, *windows, note="1 uses it up in just 30 days; 14.4 for an hour pages.")


def _alerts(title: str, severity: str) -> Panel:
    return figure(title, NUMBER, (f'count(ALERTS{{alertstate="firing", severity="{severity}"}}) or vector(0)', ""))


_PROMISES = [
    figure(
        "Requests that got their reply, 30 days",
        SHARE,
        ("1 - athena:availability_budget:burn30d * 0.005", ""),
        good_above=0.995,
    ),
    figure("Budget left", SHARE, ("1 - athena:availability_budget:burn30d", ""), good_above=0),
    figure(
        "Streams that began within 2.5 s, 30 days",
        SHARE,
        ("1 - athena:first_token_budget:burn30d * 0.05", ""),
        good_above=0.95,
    ),
    figure("Budget left", SHARE, ("1 - athena:first_token_budget:burn30d", ""), good_above=0),
    _alerts("Alerts that page", "page"),
    _alerts("Alerts that can wait", "ticket"),
    _burn("Burn of the budget of replies", "availability_budget"),
    _burn("Burn of the budget of first tokens", "first_token_budget"),
    rows("Alerts", most("alertname, severity, service, instance", 'ALERTS{alertstate="firing"}'), span=8),
]

_TRAFFIC = [
    graph("Requests by model", RATE, (total("gen_ai_request_model", rate(_ASKED)), "{{gen_ai_request_model}}")),
    graph(
        "Share of errors",
        SHARE,
        (f"{_BY_GROUP} / on () group_left () {total('', rate(_ASKED))}", "{{error_group}}"),
        note="backend counts against the promise; caller and policy do not.",
    ),
    graph("Time to first token", SECONDS, *medians("gen_ai_server_time_to_first_token_seconds")),
    graph("Tokens", RATE, (total("gen_ai_token_type", rate("gen_ai_client_token_usage_sum")), "{{gen_ai_token_type}}")),
    graph(
        "Requests at engines",
        NUMBER,
        (total("", "athena_backend_in_use"), "served"),
        (total("", "athena_backend_queued"), "waiting"),
    ),
    graph("Health", NUMBER, (least("service, instance", 'probe_success{job="health"}'), "{{service}} {{instance}}")),
]

# As the alerts ReplicaMissing and ReleaseDrift see it: where Prometheus asks pods, by what it sees at every moment; of
# the rest, what the last look has found.
_RELEASED = most("service", "athena_release_replicas")
_WELL = f'count by (service) (probe_success{{job="health", pod!=""}} == 1) or 0 * {_RELEASED}'
_LOOKED = f"{most('service', 'athena_replicas_wanted')} - {most('service', 'athena_replicas_ready')}"
_MISSING = (
    f"clamp_min(({_LOOKED} unless on (service) athena_release_replicas) or {_RELEASED} - on (service) ({_WELL}), 0)"
)
_OTHER_VERSION = """athena_build_info and on (service) athena_release_version_info
  unless on (service, version) athena_release_version_info"""
_OTHER_SCHEMA = """label_replace(
  athena_schema_revision_info and on () athena_release_schema_info unless on (revision) athena_release_schema_info,
  "service", "schema", "", ""
)"""
_DIFFERS = most("service", f"athena_drift or ({_OTHER_VERSION}) or {_OTHER_SCHEMA}")

_IN_FORCE = [
    names("Release", "athena_release_info", "{{release}}"),
    names("Schema", most("revision", "athena_schema_revision_info"), "{{revision}}"),
    names("Versions", most("service, version", "athena_build_info"), "{{service}} {{version}}", span=8),
    figure("Status seen before", AGE, ("time() - max(athena_status_timestamp_seconds)", "")),
    figure("Backends enabled", NUMBER, ('max(athena_backends{enabled="true"})', "")),
    graph("Pods that are missing", NUMBER, (_MISSING, "{{service}}"), span=12),
    graph("Differs from the release", NUMBER, (_DIFFERS, "{{service}}"), span=12),
]

OVERVIEW = board(
    "athena-overview",
    "Overview",
    [],
    [("What is promised", _PROMISES), ("What is asked", _TRAFFIC), ("What is in force", _IN_FORCE)],
)
