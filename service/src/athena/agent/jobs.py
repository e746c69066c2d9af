"""The service manager's commands for a job: which process it runs, and starting it anew."""

import re

from athena.agent.commands import READ_SECONDS, CommandError, Run
from athena.agent.configuration import LaunchdJob, SystemdJob

_LAUNCHD_PID = re.compile(r"(?m)^\s*pid = ([1-9][0-9]*)\s*$")
_SYSTEMD_PID = re.compile(r"(?m)^([1-9][0-9]*)$")


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


def pid_command(job: LaunchdJob | SystemdJob) -> list[str]:
    """Return the command whose answer has the job's process id; it needs no right of its own."""
    if isinstance(job, LaunchdJob):
        return ["launchctl", "print", name_of(job)]
    return ["systemctl", *_scope(job), "show", "--property=MainPID", "--value", job.unit]


def pid_in(job: LaunchdJob | SystemdJob, answer: str) -> int | None:
    """Return the process id that the answer to `pid_command` has; None where the job runs no process."""
    found = (_LAUNCHD_PID if isinstance(job, LaunchdJob) else _SYSTEMD_PID).search(answer)
    return int(found[1]) if found else None


async def pid_of(job: LaunchdJob | SystemdJob, run: Run) -> int | None:
    """Return the job's process id; None where it runs none, or its manager does not know it."""
    try:
        return pid_in(job, await run(pid_command(job), READ_SECONDS))
    except CommandError:
        return None  # what that means for the engine its probe tells


def _scope(job: SystemdJob) -> list[str]:
    return ["--user"] if job.scope == "user" else []
