"""Which runs an environment had, what is half done, which actions mend that, and the words in which it is told.

A run is a dictionary: the journal of one under way, or that was killed, or the ledger's entry of one that is over.
Nothing here reads a file or asks for a process: whether a run is over, the caller knows.
"""

from pathlib import Path
from typing import Any

IN_FORCE, STOPPED, UNCHANGED = "in force", "stopped, not taken back", "failed, nothing changed"
# How a `destroy` ends that leaves the data: the release is in force all the same, for what brings the services back.
REMOVED = "services removed"
# What is told though the release has the content that it had: of a restoration that is the data, which is not in it.
ALWAYS_TOLD = ("restore",)
# What the ledger's entry of a run has beside its record.
ENTRY = (
    *("id", "action", "operand", "owner", "host", "since", "until", "steps", "took_over", "git", "outcome", "error"),
    *("replaces", "restores", "content", "content_before", "left"),
)
# What a rollback goes back from where it was killed: of these it is known what they bring about.
DEPLOYING = ("deploy", "update")
# What goes on from where a run stopped only where it is told to: a person decides between this and the way back.
GOING_ON = (*DEPLOYING, "rotate")


def runs_of(releases: list[dict[str, Any]], left: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return all runs that may have changed something, oldest first, those that were killed among them.

    Each has `id` (of its ledger's entry, if it has one of its own), `outcome`, `content`, `backup` and `schema_before`.
    """
    runs = []
    for run in [*releases, *([left] if left else [])]:
        # Of those taken over the ledger has the ones with an id.
        for one in [*(one for one in run.get("took_over") or [] if not one.get("id")), run]:
            told = {**attempt_of(one)["record"], **one}
            runs.append(
                {
                    "id": one.get("id") or "",
                    "outcome": one.get("outcome") or STOPPED,
                    "content": attempt_of(one)["content"],
                    "backup": told.get("backup"),
                    "schema_before": told.get("schema_before"),
                }
            )
    return [run for run in runs if run["content"]]


def with_taken_over(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a run and those that it took over, oldest first."""
    return [*(run.get("took_over") or []), run]


def is_always_told(run: dict[str, Any]) -> bool:
    """Return whether there is something to tell of a run beside its content: its own, or of one that it took over.

    Of those taken over the ones with an id are in the ledger already.
    """
    return any(one["action"] in ALWAYS_TOLD for one in with_taken_over(run) if not one.get("id"))


def attempt_of(run: dict[str, Any]) -> dict[str, Any]:
    """Return what a run was to bring about, and its record: from before its way back, which makes others of both."""
    attempted: dict[str, Any] = run.get("attempted") or {}
    return attempted or {"content": run.get("content") or {}, "record": run.get("record") or {}}


def is_half_done(releases: list[dict[str, Any]], left: dict[str, Any] | None) -> bool:
    """Return whether the last run was a deployment, or took one over, that neither ended nor was taken back."""
    lasts = [run for run in (stopped(releases), left) if run]
    return any(run["action"] in DEPLOYING for last in lasts for run in with_taken_over(last))


def stopped(releases: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the run that left things half done and whose lock was removed, as its journal was; None if none did.

    Those since that failed and changed nothing have not changed that either, nor has what does not mend it.
    """
    last: dict[str, Any] | None = None
    for release in releases:
        if release["outcome"] == STOPPED:
            last = release
        elif last is not None and release["outcome"] != UNCHANGED and mends(release["action"], last):
            last = None
    if last is None:
        return None
    return {**last, "record": {key: value for key, value in last.items() if key not in ENTRY}}


def describe_stopped(releases: list[dict[str, Any]]) -> str:
    """Return where a run stopped whose lock was removed since, and which commands mend that; nothing if none did."""
    run, in_force = stopped(releases), active(releases)
    if run is None:
        return ""
    where = "the '{action}' of {owner}@{host} since {since} stopped in its step '{step}', and its lock was removed"
    ways = _describe_ways(run, in_force["id"] if in_force else "", "deploy")
    return f"Half done: {where.format(**run, step=run['steps'][-1]['step'])}. {ways}."


def describe_removed(releases: list[dict[str, Any]]) -> str:
    """Return who removed the services, and which commands bring them back; nothing if no run did, or one came since."""
    run = next((one for one in reversed(releases) if one["outcome"] != UNCHANGED), None)
    if run is None or run["outcome"] != REMOVED:
        return ""
    told = "The '{action}' of {owner}@{host} has removed the services at {until}, and left the data."
    return f"{told.format(**run)} `./deploy.sh ENVIRONMENT deploy` brings them back."


def describe_lock(
    journal: dict[str, Any] | None, lock: Path, in_force: str, living: list[str] | None, command: str = "deploy"
) -> str:
    """Return who holds the lock, where the run stopped if it is over, and what to do.

    `in_force` is the id of the release that can be gone back to; empty where there is none. `living` has the numbers
    of those of the run's processes that live, none of which says that it is over; None where nobody knows from here.
    `command` is one that goes on from there, where it is told to.
    """
    if journal is None:
        return f"Locked by {lock}, which says nothing about its owner.\nRemove it: ./deploy.sh ENVIRONMENT unlock"
    if living == []:
        return f"Locked: {_describe_end(journal, in_force, command)}"
    owner = f"{journal['owner']}@{journal['host']} ({name_processes(living or [str(journal['pid'])])})"
    who = f"{owner} is busy with '{journal['action']}' since {journal['since']}"
    if living:
        return f"Locked: {who}. Wait for its end."
    return f"Locked: {who}. Wait for its end; if that host is gone: ./deploy.sh ENVIRONMENT unlock"


def describe_living(living: list[str]) -> str:
    """Return which of a run's processes have to end before its lock may be removed."""
    verb, them = ("is", "it") if len(living) == 1 else ("are", "them")
    return f"Its {name_processes(living)} {verb} alive: end {them} first."


def name_processes(numbers: list[str]) -> str:
    """Return the words for processes, of which there is one at least."""
    return f"process{'es' if len(numbers) > 1 else ''} {' and '.join(numbers)}"


def _describe_end(journal: dict[str, Any], in_force: str, command: str) -> str:
    """Return where a run stopped that is over without having ended, and which commands go back or on from there."""
    aim = f"was to replace release {in_force}" if in_force else "was to be the first release"
    if journal.get("outcome") == IN_FORCE:
        aim = "had brought its release into force"
    which = f", which {aim}," if journal["action"] in GOING_ON else ""
    step = f"in its step '{journal['steps'][-1]['step']}'" if journal["steps"] else "before its first step"
    who = "the '{run}' of {owner}@{host} since {since}".format(**journal, run=_words_of(journal))
    ways = _describe_ways(journal, in_force, f"{command} --go-on")
    return f"{who}{which} stopped {step}; its process {journal['pid']} is gone. {ways}; `unlock` only removes the lock."


def _describe_ways(run: dict[str, Any], in_force: str, onwards: str) -> str:
    """Return which commands go back from where a run stopped, or do it again, and that `onwards` goes on from there."""
    if run["action"] in ("fleet", "destroy") and mends(run["action"], run):
        first = f"`./deploy.sh ENVIRONMENT {_words_of(run)}` does it again"
    elif not in_force:
        first = "There is no release to go back to, and `./deploy.sh ENVIRONMENT destroy` removes what there is"
    elif not rolls_back(run):
        first = "No rollback goes back from there"
    else:
        target = run.get("operand") if run["action"] == "rollback" else ""
        back = f"rollback {target}" if target else "rollback"
        first = f"`./deploy.sh ENVIRONMENT {back}` goes back to release {target or in_force}"
    return f"{first}; `./deploy.sh ENVIRONMENT {onwards}` goes on from there"


def command_onwards(action: str, operand: str) -> str:
    """Return which command goes on from where a run stopped, for one who asked for an action: this one, if it does."""
    is_whole = action in GOING_ON and not (action == "update" and operand)  # an update of one component mends nothing
    return f"{action} {operand}".strip() if is_whole else "deploy"


def _words_of(run: dict[str, Any]) -> str:
    """Return the action of a run and what it was about."""
    return f"{run['action']} {run.get('operand') or ''}".strip()


def mends(action: str, run: dict[str, Any]) -> bool:
    """Return whether an action, once it has ended well, leaves nothing of what a run, and those it took over, began.

    A rotation does: it is a deployment, with new secrets.
    """
    if action == "rollback":
        return rolls_back(run)
    if action == "fleet":
        return {one["action"] for one in with_taken_over(run)} == {"fleet"}
    return action in (*DEPLOYING, "rotate", "destroy")


def rolls_back(run: dict[str, Any]) -> bool:
    """Return whether a rollback goes back from what a run, and those that it took over, had begun.

    Not from a rotation: the database may have the new passwords already, and a rollback gives it none.
    """
    return {one["action"] for one in with_taken_over(run)} <= {*DEPLOYING, "rollback"}


def not_in_force(taken_over: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of several runs that were killed before they came into force: what they saw is no release's."""
    return [run for run in taken_over if run.get("outcome") != IN_FORCE]


def first_recorded(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the first of several runs recorded: what one that went on saw, others had changed already.

    What only one of them records, as a restoration does the database before, is kept.
    """
    last = {**dict.fromkeys(key for record in records for key in record), **records[-1]}
    return {key: next((run[key] for run in records if run.get(key)), value) for key, value in last.items()}


def active(releases: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the release in force, its content as it is: what could not be taken back of one that failed is in it."""
    left: dict[str, Any] = {}
    for release in reversed(releases):
        if release["outcome"] == IN_FORCE:
            return {**release, "content": {**release["content"], **left}}
        left = {**release.get("left", {}), **left}
    return None


def number(release: dict[str, Any]) -> int:
    """Return the number that a release's id has, by which the ledger is in order."""
    return int(release["id"].removeprefix("r"))
