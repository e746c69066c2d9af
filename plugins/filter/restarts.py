"""What `status` makes of parts that end and are started anew: one that does so over and over runs whenever one looks.

A supervisor, a cluster, a host's agent and systemd each tell of it in their own way. Here all of them become the same:
`part`; `restarts`, how many there were lately; `since` and `last_at`, the times of the first and the last of them (of a
pod, `since` is its start); `ended`, how it ended last; `look_at`, what shows why; and `loops`, whether it goes on.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

RESTARTS, RESTART_HOURS = 3, 6
"""So many in so many hours are a loop; the alerts EngineRestartsOften and EngineUnitRestartsOften."""
SETTLED_MINUTES = 60  # since the last; a part that has run for so long restarts no more
_WINDOW, _SETTLED = timedelta(hours=RESTART_HOURS), timedelta(minutes=SETTLED_MINUTES)
_EXITED = re.compile(
    r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ \w+ exited: (\S+) \((.*?)(?:; (?:not )?expected)?\)$", re.MULTILINE
)
_ENGINE_UNIT = re.compile(r"athena-(ollama|mlx-.+)(?<!-share)[.]service")
# Of the catalogue of systemd's messages.
UNIT_STARTED_ANEW, PROCESS_ENDED = "5eb03494b6584870a536b337290809b3", "98e322203f7a4ed290d09fe03c09fe15"


def supervisor_restarts(
    log: str, declared: Mapping[str, float], environment: str, now: datetime | None = None
) -> list[dict[str, Any]]:
    """Return the programs that ended by themselves lately, by the supervisor's own log, whose times are local ones.

    `declared` is when the file of each program was written, in seconds since the epoch: what a release did that was
    taken back is over.
    """
    found: dict[str, list[tuple[datetime, str]]] = {}
    for said, name, ended in _EXITED.findall(log):
        at = datetime.fromisoformat(said).astimezone()
        if at.timestamp() >= declared.get(name, 0):
            found.setdefault(name, []).append((at, ended))
    look_at = f"./deploy.sh {environment} logs {{}}"
    return _lately(((name, ends, look_at.format(name)) for name, ends in found.items()), now)


def pod_restarts(pods: Iterable[Mapping[str, Any]], now: datetime | None = None) -> list[dict[str, Any]]:
    """Return the containers that were started anew lately, and those that the cluster holds back for ending so often.

    A cluster counts from the start of the pod, and knows the last end alone: a container loops where that has come
    soon after its start.
    """
    now = now or datetime.now(UTC)
    found = []
    for pod in pods:
        meta, status = pod["metadata"], pod.get("status", {})
        for container in status.get("containerStatuses") or []:
            ended = container.get("lastState", {}).get("terminated") or container["state"].get("terminated")
            if not container["restartCount"] or not ended or meta.get("deletionTimestamp"):
                continue
            began, over = _moment(ended.get("startedAt")), _moment(ended.get("finishedAt")) or now
            held_back = container["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
            if now - over > _WINDOW and not held_back:
                continue
            ran = over - began if began else timedelta()
            soon = ran < _WINDOW / RESTARTS and container["restartCount"] >= RESTARTS and now - over < _SETTLED
            found.append(
                {
                    "part": f"pod {meta['name']}",
                    "restarts": container["restartCount"],
                    "since": _text(_moment(status.get("startTime")) or over),
                    "last_at": _text(over),
                    "ended": f"exit code {ended['exitCode']} ({ended.get('reason', 'no reason')})",
                    "look_at": f"kubectl --namespace {meta['namespace']} logs --previous {meta['name']}",
                    "loops": held_back or soon,
                }
            )
    return found


def engine_restarts(hosts: Iterable[Mapping[str, Any]], now: datetime | None = None) -> list[dict[str, Any]]:
    """Return the engines whose process was replaced lately without their agent, by what the hosts report."""
    return _lately(
        (
            (
                f"engine {engine['name']} on {host['name']}",
                [(at, engine.get("last_end", "")) for at in map(_moment, engine.get("replaced_at", [])) if at],
                f"{_shown_by(engine.get('job') or '')}the engine's own log there",
            )
            for host in hosts
            for engine in host["report"]["engines"]
        ),
        now,
    )


def unit_restarts(journal: str, host: str, now: datetime | None = None) -> list[dict[str, Any]]:
    """Return the engines' units that systemd started anew lately, by the lines that `journalctl --output=json` has."""
    found: dict[str, list[tuple[datetime, str]]] = {}
    ended: dict[str, str] = {}
    for line in map(json.loads, journal.splitlines()):
        unit = line.get("UNIT", "")
        if not _ENGINE_UNIT.fullmatch(unit):
            continue
        if line.get("MESSAGE_ID") == PROCESS_ENDED:
            ended[unit] = f"{line.get('EXIT_CODE', 'unknown')}, {line.get('EXIT_STATUS', 'unknown')}"
        elif line.get("MESSAGE_ID") == UNIT_STARTED_ANEW:
            at = datetime.fromtimestamp(int(line["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
            found.setdefault(unit, []).append((at, ended.get(unit, "")))
    look_at = f"`journalctl -u {{}}` on {host}"
    return _lately(((f"{unit} on {host}", ends, look_at.format(unit)) for unit, ends in found.items()), now)


def restart_problems(restarts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each part that restarts over and over."""
    told = "{part} restarts over and over: {restarts} times since {since}, its last end: {how} (see {look_at})"
    return [told.format(**one, how=one["ended"] or "unknown") for one in restarts if one["loops"]]


def _lately(
    parts: Iterable[tuple[str, Sequence[tuple[datetime, str]], str]], now: datetime | None
) -> list[dict[str, Any]]:
    """Return the parts with restarts of late; each has its name, its ends in order of time, and what to look at."""
    now = now or datetime.now(UTC)
    found = []
    for part, ends, look_at in parts:
        lately = [end for end in ends if now - end[0] < _WINDOW]
        if lately:
            last_at, ended = lately[-1]
            found.append(
                {
                    "part": part,
                    "restarts": len(lately),
                    "since": _text(lately[0][0]),
                    "last_at": _text(last_at),
                    "ended": ended,
                    "look_at": look_at,
                    "loops": len(lately) >= RESTARTS and now - last_at < _SETTLED,
                }
            )
    return found


def _shown_by(job: str) -> str:
    """Return the command that shows a job of launchd (DOMAIN/LABEL) or a unit of systemd; none: nothing."""
    if not job:
        return ""
    return f"`sudo launchctl print {job}` and " if "/" in job else f"`journalctl -u {job}` and "


def _moment(said: str | None) -> datetime | None:
    return datetime.fromisoformat(said) if said else None


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., list[Any]]]:
        """Return them by their names."""
        return {
            "supervisor_restarts": supervisor_restarts,
            "pod_restarts": pod_restarts,
            "engine_restarts": engine_restarts,
            "unit_restarts": unit_restarts,
            "restart_problems": restart_problems,
        }
