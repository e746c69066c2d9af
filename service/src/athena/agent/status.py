"""What the agent tells of its host, at /status and to the Admin API."""

import time
from datetime import UTC, datetime

from athena import __version__, host_report
from athena.agent import jobs
from athena.agent.engine import Engine
from athena.agent.host.figures import HostFigures
from athena.agent.watcher import Watcher
from athena.host_report import EngineReport, FiguresReport, HostReport


class Status(HostReport):
    """The report, and the name of the host that it goes by."""

    host: str


def status(watcher: Watcher) -> Status:
    """Return what the watcher knows now."""
    return Status(
        host=watcher.config.host,
        at=_moment(time.time()),
        version=__version__,
        figures=_figures(watcher.figures),
        engines=[_engine(engine, watcher) for engine in watcher.engines],
    )


def _figures(figures: HostFigures) -> FiguresReport:
    return FiguresReport(
        memory_total_bytes=figures.memory_total,
        memory_available_bytes=figures.memory_available,
        memory_wired_bytes=figures.memory_wired,
        memory_wired_limit_bytes=figures.memory_wired_limit,
        disk_total_bytes=figures.disk_total,
        disk_free_bytes=figures.disk_free,
        uptime_seconds=figures.uptime,
        temperatures_celsius=figures.temperatures,
        speed_limit_percent=figures.speed_limit,
        thermal_warning=figures.thermal_warning,
        thermal_pressure=figures.thermal_pressure,
        gpu_percent=figures.gpu_percent,
    )


def _engine(engine: Engine, watcher: Watcher) -> EngineReport:
    config, process = engine.config, engine.process
    window = time.time() - watcher.config.restarts.window_seconds
    given_up_at = engine.attempts.given_up_at
    return EngineReport(
        name=config.name,
        kind=config.kind,
        url=config.url,
        model=config.model,
        job=jobs.name_of(config.job) if config.job is not None else None,
        state=engine.state,
        since=_moment(watcher.since(engine)),
        last_probe=_last_probe(engine),
        pid=process.pid if process is not None else None,
        resident_bytes=process.resident if process is not None else None,
        restarting=watcher.restarting == config.name,
        restarts_lately=sum(at > window for at in engine.attempts.restarts),
        last_restart=_last_restart(engine),
        given_up_at=_moment(given_up_at) if given_up_at is not None else None,
        replaced_at=[_moment(at) for at in engine.replaced_at],
        last_end=engine.last_end,
        reason=engine.reason,
    )


def _last_probe(engine: Engine) -> host_report.LastProbe | None:
    last = engine.last
    if last is None:
        return None
    at = _moment(time.time() - time.monotonic() + last.begun)
    return host_report.LastProbe(at=at, seconds=round(last.seconds, 3), outcome=last.outcome, detail=last.detail)


def _last_restart(engine: Engine) -> host_report.LastRestart | None:
    last = engine.last_restart
    if last is None:
        return None
    return host_report.LastRestart(at=_moment(last.at), seconds=last.seconds, error=last.error)


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
