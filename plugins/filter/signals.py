"""What `status` makes of the signals that alerts judge as well: the proxy's backends, the hosts' reports, the backups.

An alert waits for some minutes before it tells of what is told here at once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

SILENT_SECONDS = 300  # since the last report of a host; alert HostDoesNotReport
BACKUP_HOURS = 26  # since the newest backup that was proven; alert BackupTooOld
BAD_STATES = {
    "hung": "takes requests and generates nothing",
    "down": "does not listen",
    "wrong_model": "serves another model than the one declared",
}
"""Of an engine; the alerts EngineHangs, EngineAway and EngineServesAnotherModel."""


def service_problems(answers: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Return a sentence for each service that is not healthy, by what `/health` of each says; None: it says nothing.

    The alerts are ServiceUnhealthy and RegistryOutOfReach.
    """
    problems = []
    for name, answer in answers.items():
        said = answer or {}
        if said.get("status") != "healthy":
            ailing = (f"{part}: {state}" for part, state in said.get("components", {}).items() if state != "healthy")
            cause = said.get("detail") or ", ".join(ailing) or said.get("status", "no answer")
            problems.append(f"{name} is not healthy: {cause.removesuffix('.')}")
    return problems


def backend_problems(backends: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each backend of the registry that is left out of its route, by the proxy's `/health`.

    The alert is BreakerOpenLong. The default Ollama is no backend: it is asked for any model that nobody has.
    """
    told = "backend {id} ({model}: {engine} at {endpoint}) is left out of its route: {reason}"
    return [told.format_map(one) for one in backends if one["id"] is not None and one["state"] != "closed"]


def host_problems(hosts: Iterable[Mapping[str, Any]], now: datetime | None = None) -> list[str]:
    """Return a sentence for each host that is silent, and each engine that does not serve, by what the hosts report.

    `hosts` are those of the Admin API. What a silent host said of its engines counts for nothing. `given up` is the
    alert EngineGivenUp.
    """
    now = now or datetime.now(UTC)
    problems = []
    for host in hosts:
        age = (now - datetime.fromisoformat(host["received_at"])).total_seconds()
        if age > SILENT_SECONDS:
            problems.append(f"host {host['name']} has reported nothing for {age:.0f} s")
            continue
        for engine in host["report"]["engines"]:
            named = f"engine {engine['name']} on {host['name']}"
            if engine.get("given_up_at"):
                problems.append(f"{named} hangs after each restart, and is given up")
            elif engine["state"] in BAD_STATES:
                problems.append(f"{named} {BAD_STATES[engine['state']]}")
    return problems


def backup_problems(backups: Sequence[Mapping[str, Any]], now: datetime | None = None) -> list[str]:
    """Return a sentence if the newest backup that was proven is too old, or none was, by `athena-backup list`.

    The alert goes by the same one: `athena_backup_timestamp_seconds`. Of those that a program of before lists, which
    does not say, each counts as proven.
    """
    proven = [one for one in backups if one.get("proven_at", "unknown")]
    if not proven:
        return [f"there are backups, the newest is {backups[-1]['id']}, and none was proven"] if backups else []
    newest = proven[-1]
    hours = ((now or datetime.now(UTC)) - datetime.fromisoformat(newest["made_at"])).total_seconds() / 3600
    too_old = f"the last good backup, {newest['id']}, is {hours:.0f} hours old; one is made and proven each night"
    return [too_old] if hours > BACKUP_HOURS else []


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Return them by their names."""
        return {
            "service_problems": service_problems,
            "backend_problems": backend_problems,
            "host_problems": host_problems,
            "backup_problems": backup_problems,
        }
