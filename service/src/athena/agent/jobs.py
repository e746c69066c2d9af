"""The service manager's commands for a job: what it says of its process, and starting it anew."""

import re

import msgspec

from athena.agent.commands import READ_SECONDS, CommandError, Run
from athena.agent.configuration import LaunchdJob, SystemdJob

_LAUNCHD_PID = re.compile(r"(?m)^\s*pid = ([1-9][0-9]*)\s*$")
_LAUNCHD_END = re.compile(r"(?m)^\s*last (?:exit code|terminating signal) = ([^(\n].*?)\s*$")
_SYSTEMD_PID = re.compile(r"(?m)^([1-9][0-9]*)$")


class JobState(msgspec.Struct, frozen=True):
    """What a service manager says of a job: its process id, None where it runs none; and how its last process ended,
    in the manager's words, empty where it does not say (systemd forgets it with the next start; its journal has it).
    """

    pid: int | None = None
    last_end: str = ""


def name_of(job: LaunchdJob | SystemdJob) -> str:
    """Return what a person calls the job by in its manager's commands."""
    return f"{job.domain}/{job.label}" if isinstance(job, LaunchdJob) else job.unit


def restart_command(job: LaunchdJob | SystemdJob) -> list[str]:
    """Return the command that ends the job's process and starts another."""
    if isinstance(job, LaunchdJob):
        command = ["launchctl", "kickstart", "-k", name_of(job)]
    else:
        command = ["systemctl", *_scope(job), "--no-ask-password", "restart", job.unit]
    return ["sudo", "-n", *command] if job.sudo else command


def show_command(job: LaunchdJob | SystemdJob) -> list[str]:
    """Return the command whose answer has the state of the job; it needs no right of its own."""
    if isinstance(job, LaunchdJob):
        return ["launchctl", "print", name_of(job)]
    return ["systemctl", *_scope(job), "show", "--property=MainPID", "--value", job.unit]


def state_in(job: LaunchdJob | SystemdJob, answer: str) -> JobState:
    """Return the state that the answer to `show_command` has."""
    is_launchd = isinstance(job, LaunchdJob)
    found = (_LAUNCHD_PID if is_launchd else _SYSTEMD_PID).search(answer)
    pid = int(found[1]) if found else None
    ended = _LAUNCHD_END.search(answer) if is_launchd else None
    if ended is None:
        return JobState(pid)
    return JobState(pid, f"exit code {ended[1]}" if "exit code" in ended[0] else ended[1])


async def state_of(job: LaunchdJob | SystemdJob, run: Run) -> JobState:
    """Return the job's state; that of one without a process where its manager does not know it."""
    try:
        return state_in(job, await run(show_command(job), READ_SECONDS))
    except CommandError:
        return JobState()  # what that means for the engine its probe tells


def _scope(job: SystemdJob) -> list[str]:
    return ["--user"] if job.scope == "user" else []
