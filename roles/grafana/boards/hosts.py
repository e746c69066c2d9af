"""The hosts: Macs and Linux hosts with engines, by their agents; all Linux hosts, by their exporters."""

from boards.parts import (
    AGE,
    BYTES,
    CELSIUS,
    NUMBER,
    PERCENT,
    RATE,
    SECONDS,
    SHARE,
    Panel,
    board,
    choice,
    figure,
    graph,
    rows,
)
from boards.queries import growth, most, of, rate, total

_ON = 'instance=~"($host):.*"'
_DISKS = f'{_ON}, fstype!~"tmpfs|ramfs|overlay|squashfs|fuse.*"'
_ENGINE = "{{instance}} {{engine}}"
_STATES = most("instance, engine, kind, state", f"{of('athena_engine_state', _ON)} == 1")
_MODELS = most("instance, engine, model", of("athena_engine_info", _ON))
_SHOWN = total("instance, engine, outcome", f"{rate('athena_engine_probes_total', _ON)} > 0")
_RESTARTS = total("instance, engine, result", growth("athena_engine_restarts_total", _ON, "1h"))
# As the alert HostHot: an input of hwmon that no sensor is at tells 127 for good.
_SENSORS = (
    of("node_thermal_zone_temp", _ON),
    f"{of('node_hwmon_temp_celsius', _ON)} < 125",
    of("athena_host_temperature_celsius", _ON),
)
_DEGREES = most("instance", " or ".join(_SENSORS))
_IDLE = rate("node_cpu_seconds_total", f'{_ON}, mode="idle"')


def _part(title: str, some: str, whole: str, *, chosen: str = _ON, name: str = "{{instance}}", note: str = "") -> Panel:
    return graph(title, SHARE, (f"{of(some, chosen)} / {of(whole, chosen)}", name), note=note)


def _of_host(title: str, unit: str, metric: str, note: str = "") -> Panel:
    return graph(title, unit, (most("instance", of(metric, _ON)), "{{instance}}"), note=note)


def _of_engine(title: str, unit: str, metric: str, note: str = "") -> Panel:
    return graph(title, unit, (most("instance, engine", of(metric, _ON)), _ENGINE), note=note)


_ENGINES = [
    rows("Engines", f"{_STATES} * on (instance, engine) group_left (model) {_MODELS}"),
    graph("Probes by what they have shown", RATE, (_SHOWN, f"{_ENGINE} {{{{outcome}}}}"), span=12),
    _of_engine("A token for the agent", SECONDS, "athena_engine_probe_seconds"),
    graph(
        "Restarts in an hour",
        NUMBER,
        (_RESTARTS, f"{_ENGINE} {{{{result}}}}"),
        note="By the agent, since it hung: done or failed. by_itself: it crashed, or somebody started it anew.",
    ),
    _of_engine("Given up", NUMBER, "athena_engine_given_up", "1: it hangs after each restart, and needs a person."),
]

_MEMORY = [
    _part(
        "Pinned, of what the GPU may hold",
        "athena_host_memory_wired_bytes",
        "athena_host_memory_wired_limit_bytes",
        note="Macs where a limit is set; above 92 % the next model or a long context does not fit.",
    ),
    graph(
        "Pinned, and the limit",
        BYTES,
        (of("athena_host_memory_wired_bytes", _ON), "{{instance}}"),
        (of("athena_host_memory_wired_limit_bytes", _ON), "{{instance}} limit"),
    ),
    _of_engine("Engines' memory", BYTES, "athena_engine_resident_memory_bytes"),
    _part("Memory left, by agents", "athena_host_memory_available_bytes", "athena_host_memory_total_bytes"),
    _part("Memory left, Linux hosts", "node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes"),
    graph("Processor in use, Linux hosts", SHARE, (f"1 - avg by (instance) ({_IDLE})", "{{instance}}")),
]

_HEAT = [
    graph(
        "Temperature",
        CELSIUS,
        (_DEGREES, "{{instance}}"),
        note="The hottest sensor of each Linux host. A Mac tells what follows instead.",
    ),
    _of_host("Speed that heat leaves", PERCENT, "athena_host_speed_limit_percent"),
    _of_host(
        "Thermal pressure",
        NUMBER,
        "athena_host_thermal_pressure",
        "Macs: 0 nominal, 1 moderate, 2 heavy, 3 trapping, 4 sleeping; from 2 on the system slows the chip down.",
    ),
    _of_host("Thermal warning", NUMBER, "athena_host_thermal_warning"),
    _of_host("GPU in use", PERCENT, "athena_host_gpu_utilization_percent"),
    figure("Up since", AGE, (of("athena_host_uptime_seconds", _ON), "{{instance}}"), span=8),
]

_DISKS_AND_AGENTS = [
    _part("Disk of the models, left", "athena_host_disk_free_bytes", "athena_host_disk_size_bytes"),
    _part(
        "Disks of Linux hosts, left",
        "node_filesystem_avail_bytes",
        "node_filesystem_size_bytes",
        chosen=_DISKS,
        name="{{instance}} {{mountpoint}}",
    ),
    graph("Last report of an agent", SECONDS, (most("host", "athena_host_report_age_seconds"), "{{host}}")),
]

HOSTS = board(
    "athena-hosts",
    "Hosts",
    [
        choice(
            "host",
            "Host",
            'label_values({__name__=~"athena_host_uptime_seconds|node_memory_MemTotal_bytes"}, instance)',
            "/^(.+):/",
        )
    ],
    [("Engines", _ENGINES), ("Memory", _MEMORY), ("Heat", _HEAT), ("Disks and agents", _DISKS_AND_AGENTS)],
)
