"""What is kept: PostgreSQL and its backups, Redis, and the Admin API in front."""

from boards.parts import AGE, BYTES, NUMBER, RATE, SECONDS, SHARE, board, figure, graph
from boards.queries import growth, least, most, of, quantile, rate, total

_HTTP = "http_server_request_duration_seconds"
_OURS = 'datname!~"template.*|postgres|"'
_OF = "instance, datname"
_AGE = (f"time() - {most('instance', 'athena_backup_timestamp_seconds')}", "{{instance}}")
_SIZE = (most("instance", "athena_backup_size_bytes"), "{{instance}}")
_HIT, _READ = (total("instance", rate(f"pg_stat_database_blks_{kind}", _OURS)) for kind in ("hit", "read"))

_BACKUPS = [
    figure("Last good backup", AGE, _AGE),
    figure("Its size", BYTES, _SIZE),
    graph("Age of the last good backup", AGE, _AGE),
    graph("Size of the last good backup", BYTES, _SIZE),
]

_POSTGRESQL = [
    figure("Lets its exporter in", NUMBER, (least("instance", "pg_up"), "{{instance}}"), good_above=1),
    graph(
        "Connections",
        NUMBER,
        (f"{total('instance, state', 'pg_stat_activity_count')} > 0", "{{instance}} {{state}}"),
        (most("instance", "pg_settings_max_connections"), "{{instance}} limit"),
    ),
    graph(
        "Transactions",
        RATE,
        (total(_OF, rate("pg_stat_database_xact_commit", _OURS)), "{{datname}} committed"),
        (total(_OF, rate("pg_stat_database_xact_rollback", _OURS)), "{{datname}} rolled back"),
    ),
    graph("Size", BYTES, (most(_OF, of("pg_database_size_bytes", _OURS)), "{{datname}}")),
    graph("Read from memory", SHARE, (f"{_HIT} / ({_HIT} + {_READ})", "{{instance}}")),
    graph("Deadlocks", NUMBER, (total(_OF, growth("pg_stat_database_deadlocks", _OURS)), "{{datname}}")),
]

_ADMIN = [
    graph(
        "Requests",
        RATE,
        (
            total("http_route, http_response_status_code", rate(f"{_HTTP}_count", 'job="admin"')),
            "{{http_route}} {{http_response_status_code}}",
        ),
    ),
    graph("Time of an answer, p95", SECONDS, (quantile(0.95, _HTTP, "http_route", 'job="admin"'), "{{http_route}}")),
    graph(
        "Connections to the database",
        NUMBER,
        (total("instance, state", "athena_database_connections"), "{{instance}} {{state}}"),
        (most("instance", "athena_database_connections_limit"), "{{instance}} limit"),
    ),
]

_REDIS = [
    figure("Answers", NUMBER, (least("instance", "redis_up"), "{{instance}}"), good_above=1),
    graph("Memory", BYTES, (most("instance", "redis_memory_used_bytes"), "{{instance}}")),
    graph("Clients", NUMBER, (most("instance", "redis_connected_clients"), "{{instance}}")),
]

DATABASE = board(
    "athena-database",
    "Database",
    [],
    [("Backups", _BACKUPS), ("PostgreSQL", _POSTGRESQL), ("Admin API", _ADMIN), ("Redis", _REDIS)],
)
