"""The configuration of the OpenTelemetry Collector: which lines it reads, what it says of them, how none is lost."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Config = dict[str, Any]

STORAGE = "file_storage"
MIB = 1024 * 1024
# So much is sent in one request at most, and so little is waited for at least, in bytes of OpenTelemetry's encoding.
LARGEST_BATCH, SMALLEST_BATCH = 4 * MIB, MIB // 4
# Where it refuses more: what it holds in memory, beside the queue, which is on the disk.
MEMORY_MIB = 256
# What joins the lines of a request, and what tells them apart; a caller's text is in none of them.
FIELDS = ("level", "event", "request_id", "trace_id")
# As Go writes a time by the parts of a certain second: what our services' `timestamp` looks like.
TIME = "2006-01-02T15:04:05.999999999Z07:00"
# What a rotation puts aside: as logrotate and the supervisor name it, as the jobs of Macs have it, and as kubelet does.
# A file is known by how it begins, compressed or not: one that was read is not read again under another name.
ASIDE_OF_HOSTS = ("", ".1", ".past", ".past.*.gz")
ASIDE_OF_PODS = ("", ".????????-??????", ".????????-??????.gz")
# A queue that is full holds its source up, for as long as it takes; it never lets lines go.
PATIENT = {"enabled": True, "initial_interval": "1s", "max_interval": "30s", "max_elapsed_time": 0}


def escaped(value: Any) -> Any:
    """Return it with every `$` doubled: the collector takes a single one for the name of a variable."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {key: escaped(one) for key, one in value.items()}
    return [escaped(one) for one in value] if isinstance(value, Sequence) else value


def operators_of_lines() -> list[Config]:
    """Return how the line in `body` is read: one of JSON says when it was written, how grave it is and of what."""
    has = "attributes?.line?.{} != nil".format
    return [
        {
            "type": "json_parser",
            "if": 'type(body) == "string" and body startsWith "{"',
            "parse_from": "body",
            "parse_to": "attributes.line",
            "on_error": "send_quiet",
        },
        {
            "type": "time_parser",
            "if": has("timestamp"),
            "parse_from": "attributes.line.timestamp",
            "layout_type": "gotime",
            "layout": TIME,
            "on_error": "send_quiet",
        },
        {
            "type": "severity_parser",
            "if": has("level"),
            "parse_from": "attributes.line.level",
            "on_error": "send_quiet",
        },
        *(
            {"type": "move", "if": has(field), "from": f"attributes.line.{field}", "to": f"attributes.{field}"}
            for field in FIELDS
        ),
        {"type": "move", "if": has("service"), "from": "attributes.line.service", "to": "resource.service"},
        {"type": "remove", "if": "attributes?.line != nil", "field": "attributes.line"},
    ]


def journal_receiver(matches: Sequence[str], resource: Mapping[str, str]) -> Config:
    """Return what reads the journal's lines that meet one of the matches, each as `journalctl FIELD=VALUE` takes it."""
    return {
        "matches": [dict([match.split("=", 1)]) for match in matches],
        "priority": "debug",
        "all": True,
        "convert_message_bytes": True,
        "start_at": "beginning",
        "storage": STORAGE,
        "resource": dict(resource),
        "retry_on_failure": PATIENT,
        "operators": [
            {"type": "filter", "expr": "body?.MESSAGE == nil"},
            {"type": "move", "from": "body.MESSAGE", "to": "body"},
            *operators_of_lines(),
        ],
    }


def file_receiver(paths: Sequence[str], resource: Mapping[str, str]) -> Config:
    """Return what reads files of lines, where `resource` has no `app` of the one that a file's name says.

    com.athena.ollama.log is ollama's. What a rotation has put aside is read to its end.
    """
    name = 'attributes["log.file.name"]'
    by_name = [
        {
            "type": "regex_parser",
            "parse_from": name,
            "regex": r"^(?:com\.athena\.)?(?P<app>.+?)(?:\.log)?(?:\.\d+|\.past(?:\.\d+\.gz)?)?$",
        },
        {"type": "move", "from": "attributes.app", "to": "resource.app"},
    ]
    return {
        "include": [f"{one}{aside}" for one in paths for aside in ASIDE_OF_HOSTS],
        "compression": "auto",
        "include_file_name": True,
        "start_at": "beginning",
        "storage": STORAGE,
        "resource": dict(resource),
        "retry_on_failure": PATIENT,
        "operators": [
            *([] if "app" in resource else by_name),
            {"type": "remove", "field": name},
            *operators_of_lines(),
        ],
    }


def pods_receiver(namespaces: Sequence[str], resource: Mapping[str, str]) -> Config:
    """Return what reads the lines of a node's pods of those namespaces. A container is named as its application."""
    names = {"k8s.container.name": "app", "k8s.namespace.name": "namespace", "k8s.pod.name": "pod"}
    path = 'attributes["log.file.path"]'
    return {
        "include": [
            f"/var/log/pods/{namespace}_*/*/*.log{aside}" for namespace in namespaces for aside in ASIDE_OF_PODS
        ],
        "compression": "auto",
        "include_file_path": True,
        "include_file_name": False,
        "start_at": "beginning",
        "storage": STORAGE,
        "resource": dict(resource),
        "retry_on_failure": PATIENT,
        "operators": [
            # The next one knows no names that end so.
            {
                "type": "add",
                "if": f'{path} endsWith ".gz"',
                "field": path,
                "value": f'EXPR(trimSuffix({path}, ".gz"))',
            },
            {"type": "container"},
            *(
                {"type": "copy", "from": f'resource["{name}"]', "to": f"resource.{ours}"}
                for name, ours in names.items()
            ),
            {"type": "remove", "field": path},
            *operators_of_lines(),
        ],
    }


def collector(receivers: Mapping[str, Config], processors: Mapping[str, Config], settings: Mapping[str, Any]) -> Config:
    """Return the whole configuration: from those receivers to Loki, and traces onward where somebody takes them.

    `settings` has `loki_url`, `queue_mib` (what waits on the disk at most), `folder` (of the queue), `metrics_address`
    and `metrics_port`, `traces_endpoint` (empty for none), `traces_address`.
    """
    limiter = {"check_interval": "1s", "limit_mib": MEMORY_MIB, "spike_limit_mib": MEMORY_MIB // 4}
    before = ["memory_limiter", *processors]
    config: Config = {
        "extensions": {
            STORAGE: {
                "directory": settings["folder"],
                "recreate": True,
                "compaction": {
                    "directory": settings["folder"],
                    "on_start": True,
                    "on_rebound": True,
                    "cleanup_on_start": True,
                },
            }
        },
        "receivers": dict(receivers),
        "processors": {"memory_limiter": limiter, **processors},
        "exporters": {"otlp_http/loki": exporter(f"{settings['loki_url']}/otlp", int(settings["queue_mib"]))},
        "service": {
            "extensions": [STORAGE],
            "telemetry": {
                "logs": {"level": "warn", "encoding": "json"},
                "metrics": {
                    "readers": [
                        {
                            "pull": {
                                "exporter": {
                                    "prometheus": {
                                        "host": settings["metrics_address"],
                                        "port": int(settings["metrics_port"]),
                                    }
                                }
                            }
                        }
                    ]
                },
            },
            "pipelines": {
                "logs": {"receivers": list(receivers), "processors": before, "exporters": ["otlp_http/loki"]}
            },
        },
    }
    if settings["traces_endpoint"]:
        address = f"{settings['traces_address']}:4318"
        config["receivers"]["otlp"] = {"protocols": {"http": {"endpoint": address}}}
        config["exporters"]["otlp_http/traces"] = exporter(settings["traces_endpoint"], int(settings["queue_mib"]))
        config["service"]["pipelines"]["traces"] = {
            "receivers": ["otlp"],
            "processors": ["memory_limiter"],
            "exporters": ["otlp_http/traces"],
        }
    escaped_config: Config = escaped(config)
    return escaped_config


def exporter(endpoint: str, queue_mib: int) -> Config:
    """Return what sends by OTLP/HTTP until it is taken, from a queue on the disk that a restart does not empty."""
    return {
        "endpoint": endpoint,
        "timeout": "30s",
        "retry_on_failure": PATIENT,
        "sending_queue": {
            "enabled": True,
            "storage": STORAGE,
            "sizer": "bytes",
            "queue_size": queue_mib * MIB,
            "block_on_overflow": True,
            "num_consumers": 2,
            "batch": {"flush_timeout": "1s", "min_size": SMALLEST_BATCH, "max_size": LARGEST_BATCH},
        },
    }


def of_a_host(
    settings: Mapping[str, Any],
    origin: Mapping[str, str],
    journal: Mapping[str, Sequence[str]],
    files: Sequence[Mapping[str, str]],
) -> Config:
    """Return the configuration of a host: `journal` is app → matches, `origin` what is said of each line."""
    receivers = {
        f"journald/{app}": journal_receiver(matches, {"app": app, **origin}) for app, matches in sorted(journal.items())
    }
    for app in sorted({str(one.get("app", "")) for one in files}):
        paths = [one["path"] for one in files if one.get("app", "") == app]
        receivers[f"file_log/{app or 'by_name'}"] = file_receiver(paths, {"app": app, **origin} if app else origin)
    return collector(receivers, {}, settings)


def of_a_node(settings: Mapping[str, Any], environment: str, namespaces: Sequence[str]) -> Config:
    """Return the configuration of each node of a cluster. The pod has the node's name in its variable NODE_NAME."""
    attributes = {
        "auth_type": "serviceAccount",
        "filter": {"node_from_env_var": "NODE_NAME"},
        "pod_association": [{"sources": [{"from": "resource_attribute", "name": "k8s.pod.uid"}]}],
        "extract": {
            "metadata": ["k8s.pod.start_time"],
            "labels": [{"tag_name": "component", "key": "app.kubernetes.io/name", "from": "pod"}],
        },
    }
    receiver = pods_receiver(namespaces, {"environment": environment})
    config = collector({"file_log/pods": receiver}, {"k8s_attributes": attributes}, settings)
    # After all `$` have been doubled, because this one is meant.
    config["receivers"]["file_log/pods"]["resource"]["host"] = "${env:NODE_NAME}"
    return config


def problems(journal: Mapping[str, Sequence[str]], files: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what is wrong with what it is to read, a sentence each."""
    found = [
        f"log_collector_journal: {app} has '{match}', which is not FIELD=VALUE, such as _SYSTEMD_UNIT={app}.service"
        for app, matches in journal.items()
        for match in matches
        if not re.fullmatch(r"[A-Z0-9_]+=.+", str(match))
    ]
    found += [
        f"log_collector_files: {one} must have an absolute path, and may have an app beside that"
        for one in files
        if not str(one.get("path", "")).startswith("/") or not set(one) <= {"path", "app"}
    ]
    names = {*journal, *(str(one.get("app", "app")) for one in files)}
    found += [
        f"'{name}' cannot be the name of an app: letters, digits, ., _ and -"
        for name in sorted(names)
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", name)
    ]
    if not journal and not files:
        found.append("log_collector_journal and log_collector_files are both empty: there is nothing to read")
    return found


class FilterModule:
    """The filters of the role."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "log_collector_of_a_host": of_a_host,
            "log_collector_of_a_node": of_a_node,
            "log_collector_problems": problems,
        }
