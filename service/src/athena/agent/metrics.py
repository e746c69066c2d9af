"""What Prometheus is told of the engines and of the host."""

from collections.abc import Callable, Iterable

from athena.agent.host.figures import HostFigures
from athena.agent.judging import Outcome, Result, State
from athena.agent.watcher import Watcher
from athena.observability.families import Family, Kind, Read
from athena.observability.service_metrics import ServiceMetrics

_HOST: tuple[tuple[str, str, Callable[[HostFigures], float | None]], ...] = (
    ("athena_host_memory_total_bytes", "Memory of the host.", lambda one: one.memory_total),
    ("athena_host_memory_available_bytes", "Memory that programs can have.", lambda one: one.memory_available),
    ("athena_host_memory_wired_bytes", "Memory that cannot be paged out (macOS).", lambda one: one.memory_wired),
    (
        "athena_host_memory_wired_limit_bytes",
        "What the GPU may pin, where set (macOS).",
        lambda one: one.memory_wired_limit,
    ),
    ("athena_host_disk_size_bytes", "Size of the file system of the models.", lambda one: one.disk_total),
    ("athena_host_disk_free_bytes", "Free space of the file system of the models.", lambda one: one.disk_free),
    ("athena_host_uptime_seconds", "Time since the host was started.", lambda one: one.uptime),
    (
        "athena_host_speed_limit_percent",
        "Speed that the processor is held to by heat (macOS).",
        lambda one: one.speed_limit,
    ),
    (
        "athena_host_thermal_warning",
        "The system's thermal warning level, 0: none (macOS).",
        lambda one: one.thermal_warning,
    ),
    (
        "athena_host_thermal_pressure",
        "The system's thermal pressure: 0 nominal, 1 moderate, 2 heavy, 3 trapping, 4 sleeping (macOS).",
        lambda one: one.thermal_pressure,
    ),
    ("athena_host_gpu_utilization_percent", "GPU in use (macOS).", lambda one: one.gpu_percent),
)


class AgentMetrics(ServiceMetrics):
    """The metrics of one agent; those that are read are there once `watch` has named what they are read from."""

    def __init__(self) -> None:
        super().__init__("agent")
        self._probes = Family(
            Kind.COUNTER, "athena_engine_probes", "Probes of an engine by what they have shown.", ("engine", "outcome")
        )
        self._restarts = Family(
            Kind.COUNTER,
            "athena_engine_restarts",
            "Restarts of an engine: by the agent, as it hung, `done` or `failed`; `by_itself` without the agent.",
            ("engine", "result"),
        )
        self._reports = Family(
            Kind.COUNTER, "athena_agent_reports", "Reports to the Admin API by whether it took them.", ("result",)
        )
        self.add(self._probes, self._restarts, self._reports)

    def noted(self, engine: str, result: Result) -> None:
        """Count a result of a probe."""
        self._probes.at(engine, result.outcome).inc()

    def restarted(self, engine: str, well: bool) -> None:
        """Count a restart."""
        self._restarts.at(engine, "done" if well else "failed").inc()

    def replaced(self, engine: str) -> None:
        """Count a restart that was not the agent's: the engine crashed, or somebody started it anew."""
        self._restarts.at(engine, "by_itself").inc()

    def reported(self, well: bool) -> None:
        """Count a report."""
        self._reports.at("taken" if well else "failed").inc()

    def watch(self, watcher: Watcher) -> None:
        """Name what the gauges are read from."""
        engines = watcher.engines
        for engine in engines:
            for outcome in Outcome:
                self._probes.at(engine.name, outcome)
            for result in ("done", "failed", "by_itself"):
                self._restarts.at(engine.name, result)
        for result in ("taken", "failed"):
            self._reports.at(result)
        self.gauges(
            "athena_engine_info",
            "1; the labels say which engine this is, of which kind, and by which model it is probed.",
            ("engine", "kind", "model"),
            lambda: (((one.name, one.config.kind, one.config.model), 1.0) for one in engines),
        )
        self.gauges(
            "athena_engine_state",
            "1 for the state of the engine, 0 for the others.",
            ("engine", "kind", "state"),
            lambda: (
                ((one.name, one.config.kind, state), float(one.state is state)) for one in engines for state in State
            ),
        )
        self.gauges(
            "athena_engine_probe_seconds",
            "How long the last probe took, or has waited so far.",
            ("engine",),
            lambda: (((one.name,), last.seconds) for one in engines if (last := one.last) is not None),
        )
        self.gauges(
            "athena_engine_given_up",
            "1 where the engine hangs, and is not started anew any more: it needs a person.",
            ("engine",),
            lambda: (((one.name,), float(one.attempts.given_up_at is not None)) for one in engines),
        )
        self.gauges(
            "athena_engine_resident_memory_bytes",
            "Resident memory of the processes of the engine's job.",
            ("engine",),
            lambda: (((one.name,), float(one.process.resident)) for one in engines if one.process is not None),
        )
        for name, documentation, value in _HOST:
            self.gauges(name, documentation, (), _of_host(watcher, value))
        self.gauges(
            "athena_host_temperature_celsius",
            "Temperature by sensor (Linux).",
            ("sensor",),
            lambda: (((sensor,), degrees) for sensor, degrees in watcher.figures.temperatures.items()),
        )


def _of_host(watcher: Watcher, value: Callable[[HostFigures], float | None]) -> Read:
    def read() -> Iterable[tuple[tuple[str, ...], float]]:
        found = value(watcher.figures)
        return () if found is None else (((), float(found)),)

    return read
