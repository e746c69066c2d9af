#!/usr/bin/env python3
"""launchd: the process that runs jobs, keeps them alive, and does what launchctl asks over a socket.

One process and one thread: it forks, so that what runs between fork and exec is ordinary code.
"""

import contextlib
import grp
import json
import math
import os
import plistlib
import pwd
import resource
import selectors
import signal
import socket
import stat
import struct
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from xml.parsers.expat import ExpatError

import mac
from mac import ToolError

TICK_SECONDS = 0.02
EXIT_TIMEOUT = 5
THROTTLE = 10
EX_CONFIG = 78
PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
LIMITS = {
    "CPU": resource.RLIMIT_CPU,
    "Core": resource.RLIMIT_CORE,
    "Data": resource.RLIMIT_DATA,
    "FileSize": resource.RLIMIT_FSIZE,
    "MemoryLock": resource.RLIMIT_MEMLOCK,
    "NumberOfFiles": resource.RLIMIT_NOFILE,
    "NumberOfProcesses": resource.RLIMIT_NPROC,
    "ResidentSetSize": resource.RLIMIT_RSS,
    "Stack": resource.RLIMIT_STACK,
}
# What launchd answers with; launchctl puts the name of the action before it.
NOT_PERMITTED = (1, "Operation not permitted")
NO_PROCESS = (3, "No such process")
INPUT_OUTPUT = (5, "Input/output error")
NO_DOMAIN = (112, "Could not find specified domain")
NO_SERVICE = (113, "Could not find specified service")
BAD_OWNER = (122, "Path had bad ownership/permissions")
NOT_SUPPORTED = (125, "Domain does not support specified action")


@dataclass
class Job:
    """One loaded job, with its process where it has one."""

    domain: str
    path: str
    keys: dict[str, Any]
    pid: int | None = None
    runs: int = 0
    started: float = 0
    last_exit: int | None = None
    last_signal: int | None = None
    due: float | None = None  # when it is started next
    kill_at: float | None = None  # when a process that was told to end is killed
    is_leaving: bool = False
    tick_at: float | None = None  # when StartInterval starts it next

    @property
    def label(self) -> str:
        return str(self.keys["Label"])

    @property
    def program(self) -> str:
        return str(self.keys.get("Program") or self.keys["ProgramArguments"][0])

    @property
    def arguments(self) -> list[str]:
        return self.keys.get("ProgramArguments") or [self.program]

    @property
    def throttle(self) -> float:
        return float(self.keys.get("ThrottleInterval", THROTTLE))

    @property
    def exit_timeout(self) -> float:
        return float(self.keys.get("ExitTimeOut", EXIT_TIMEOUT))

    @property
    def starts_at_load(self) -> bool:
        """Return whether loading starts it: KeepAlive that looks at how it exits implies that."""
        keep_alive = self.keys.get("KeepAlive", False)
        by_exit = isinstance(keep_alive, dict) and bool({"SuccessfulExit", "Crashed"} & set(keep_alive))
        return bool(self.keys.get("RunAtLoad")) or keep_alive is True or by_exit

    @property
    def is_kept_alive(self) -> bool:
        """Return whether it is to be started again after the exit that it had."""
        keep_alive = self.keys.get("KeepAlive", False)
        if not isinstance(keep_alive, dict):
            return bool(keep_alive)
        succeeded = self.last_signal is None and self.last_exit == 0
        return ("SuccessfulExit" in keep_alive and keep_alive["SuccessfulExit"] == succeeded) or (
            "Crashed" in keep_alive and keep_alive["Crashed"] == (self.last_signal is not None)
        )

    @property
    def state(self) -> str:
        if self.pid is not None:
            return "SIGTERMed" if self.kill_at else "running"
        return "spawn scheduled" if self.due is not None else "not running"


def user_of(job: Job) -> pwd.struct_passwd:
    """Return whose process it becomes."""
    if job.domain == "system":
        if os.geteuid() != 0:
            return pwd.getpwuid(os.geteuid())
        return pwd.getpwnam(job.keys.get("UserName", "root"))
    return pwd.getpwuid(int(job.domain.partition("/")[2]))


def environment_of(job: Job, user: pwd.struct_passwd) -> dict[str, str]:
    """Return the whole environment of its process: a daemon gets little, and no HOME that one could rely on."""
    given = {"PATH": PATH, "XPC_SERVICE_NAME": job.label, "XPC_FLAGS": "0x0"}
    if job.domain != "system":
        given |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell}
    return {**given, **job.keys.get("EnvironmentVariables", {})}


def become(job: Job) -> NoReturn:
    """Become the job's process, after the fork; what cannot be done is exit code 78, as of a wrong configuration."""
    try:
        os.setsid()
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
            signal.signal(name, signal.SIG_DFL)
        user = user_of(job)
        set_limits(job)
        if os.geteuid() == 0:
            group = grp.getgrnam(job.keys["GroupName"]).gr_gid if "GroupName" in job.keys else user.pw_gid
            os.initgroups(user.pw_name, group)
            os.setgid(group)
            os.setuid(user.pw_uid)
        os.umask(int(job.keys.get("Umask", 0o22)))
        os.chdir(job.keys.get("WorkingDirectory", "/"))
        with Path("/dev/null").open() as nothing:
            os.dup2(nothing.fileno(), 0)
        for number, key in ((1, "StandardOutPath"), (2, "StandardErrorPath")):
            # Opened once, to append, in the name of the user; whoever renames the file renames what is written to.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            os.dup2(os.open(job.keys.get(key, "/dev/null"), flags, 0o666), number)
        os.closerange(3, 256)
        os.execve(job.program, job.arguments, environment_of(job, user))  # noqa: S606  # as launchd does
    except (OSError, KeyError, ValueError):
        traceback.print_exc()
    finally:
        os._exit(EX_CONFIG)


def set_limits(job: Job) -> None:
    soft, hard = job.keys.get("SoftResourceLimits", {}), job.keys.get("HardResourceLimits", {})
    for name in {**soft, **hard}:
        was_soft, was_hard = resource.getrlimit(LIMITS[name])
        new_hard = hard.get(name, was_hard)
        resource.setrlimit(LIMITS[name], (soft.get(name, min(was_soft, new_hard)), new_hard))


class Launchd:
    """All jobs, and the answers to launchctl."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, str], Job] = {}
        self.left: dict[tuple[str, str], float] = {}
        self.is_ending = False

    # --- processes ----------------------------------------------------------------------------------------------------

    def start(self, job: Job) -> None:
        job.due, job.started, job.runs = None, time.monotonic(), job.runs + 1
        pid = os.fork()
        if pid == 0:
            become(job)
        job.pid = pid

    def end(self, job: Job) -> None:
        """Tell a job's process to end; it is killed after its time."""
        job.due = None
        if job.pid is not None and job.kill_at is None:
            job.kill_at = time.monotonic() + job.exit_timeout
            os.kill(job.pid, signal.SIGTERM)

    def collect(self, job: Job) -> None:
        """See whether a job's process has ended, and what is to follow."""
        if job.pid is None:
            return
        pid, status = os.waitpid(job.pid, os.WNOHANG)
        if pid == 0:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what its process left behind
        job.pid, job.kill_at = None, None
        code = os.waitstatus_to_exitcode(status)
        job.last_exit, job.last_signal = (code, None) if code >= 0 else (None, -code)
        if not job.is_leaving and not self.is_ending and job.is_kept_alive:
            job.due = job.started + job.throttle

    def tick(self) -> None:
        now = time.monotonic()
        for key, job in list(self.jobs.items()):
            self.collect(job)
            if job.pid is not None and job.kill_at is not None and now > job.kill_at:
                os.kill(job.pid, signal.SIGKILL)
            if job.is_leaving and job.pid is None:
                del self.jobs[key]
                self.left[key] = now
            elif job.pid is None and job.due is not None and now >= job.due:
                self.start(job)
            elif job.tick_at is not None and now >= job.tick_at:
                job.tick_at = now + job.keys["StartInterval"]
                if job.pid is None:
                    self.start(job)

    # --- what launchctl asks ------------------------------------------------------------------------------------------

    def answer(self, request: dict[str, Any], caller: int) -> Any:
        action, domain, label = request["action"], request["domain"], request.get("label", "")
        may_change(domain, caller, action)
        if action in ("enable", "disable"):
            return self.set_disabled(domain, label, is_disabled=action == "disable")
        if action == "disabled":
            has_domain(domain, NO_DOMAIN)
            return mac.read("disabled", {}).get(domain, {})
        if action == "jobs":
            return [self.describe(job) for job in self.jobs.values() if job.domain == domain]
        has_domain(domain, NO_DOMAIN if action in ("print", "kickstart", "kill") else NOT_SUPPORTED)
        if action == "bootstrap":
            return self.bootstrap(domain, request["path"])
        job = self.jobs.get((domain, label))
        if job is None:
            raise ToolError(*(NO_PROCESS if action == "bootout" else NO_SERVICE))
        if action == "bootout":
            job.is_leaving = True
            self.end(job)
        elif action == "kickstart":
            self.kickstart(job, kill=request["kill"])
        elif action == "kill":
            if job.pid is None:
                raise ToolError(*NO_PROCESS)
            os.kill(job.pid, request["signal"])
        return self.describe(job)

    def bootstrap(self, domain: str, path: str) -> dict[str, Any]:
        keys = read_plist(domain, path)
        label = keys["Label"]
        # The same answer for what is loaded, for what is still ending and for what is disabled.
        is_lingering = time.monotonic() < self.left.get((domain, label), -math.inf) + mac.settings()["linger"]
        is_disabled = mac.read("disabled", {}).get(domain, {}).get(label)
        if (domain, label) in self.jobs or is_lingering or is_disabled:
            raise ToolError(*INPUT_OUTPUT)
        job = self.jobs[domain, label] = Job(domain, path, keys)
        if interval := keys.get("StartInterval"):
            job.tick_at = time.monotonic() + interval
        if job.starts_at_load:
            self.start(job)
        return self.describe(job)

    def kickstart(self, job: Job, *, kill: bool) -> None:
        if job.is_leaving:
            raise ToolError(*NO_PROCESS)
        if job.pid is not None and kill:
            os.kill(job.pid, signal.SIGKILL)
            while job.pid is not None:
                self.collect(job)
                time.sleep(0.001)
        if job.pid is None:
            self.start(job)

    def set_disabled(self, domain: str, label: str, *, is_disabled: bool) -> None:
        disabled = mac.read("disabled", {})
        disabled.setdefault(domain, {})[label] = is_disabled
        mac.keep("disabled", disabled)

    def describe(self, job: Job) -> dict[str, Any]:
        names = ("domain", "path", "label", "program", "arguments", "keys", "state", "pid", "runs", "throttle")
        seen = {name: getattr(job, name) for name in names}
        return seen | {
            "exit_timeout": job.exit_timeout,
            "last_exit": job.last_exit,
            "last_signal": job.last_signal,
            "environment": {"XPC_SERVICE_NAME": job.label} | job.keys.get("EnvironmentVariables", {}),
        }

    # --- its own life -------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Load the daemons that are not disabled, as at a start of the machine."""
        for path in sorted(Path(mac.settings()["daemons"]).glob("*.plist")):
            try:
                self.bootstrap("system", str(path))
            except ToolError as error:
                sys.stderr.write(f"{path}: {error}\n")

    def serve(self) -> None:
        mac.SOCKET.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as selector:
            server.bind(str(mac.SOCKET))
            mac.SOCKET.chmod(0o666)
            server.listen()
            server.setblocking(False)
            selector.register(server, selectors.EVENT_READ)
            while not self.is_ending or self.jobs:
                if selector.select(TICK_SECONDS):
                    self.talk(server)
                if self.is_ending:
                    for job in self.jobs.values():
                        job.is_leaving = True
                        self.end(job)
                self.tick()
        mac.SOCKET.unlink()

    def talk(self, server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(2)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            caller = struct.unpack("3i", credentials)[1]
            try:
                request = json.loads(connection.makefile().readline())
                reply = {"answer": self.answer(request, caller)}
            except ToolError as error:
                reply = {"code": error.code, "error": str(error)}
            connection.sendall(json.dumps(reply).encode() + b"\n")


def has_domain(domain: str, otherwise: tuple[int, str]) -> None:
    """Refuse a desktop's domain where nobody has logged in to a desktop."""
    kind, _, number = domain.partition("/")
    if kind == "gui" and int(number) not in mac.settings()["logins"]:
        raise ToolError(*otherwise)


def may_change(domain: str, caller: int, action: str) -> None:
    if action in ("print", "disabled", "jobs") or caller == mac.settings()["root"]:
        return
    if domain == "system" or int(domain.partition("/")[2]) != caller:
        raise ToolError(*NOT_PERMITTED)


def read_plist(domain: str, path: str) -> dict[str, Any]:
    """Return a plist's keys, or refuse the file as launchd does: hardly ever with the reason."""
    try:
        seen = Path(path).lstat()
        keys = plistlib.loads(Path(path).read_bytes())
    except (OSError, plistlib.InvalidFileException, ExpatError, ValueError):
        raise ToolError(*INPUT_OUTPUT) from None
    owners = {mac.settings()["root"]} | ({int(domain.partition("/")[2])} if domain != "system" else set())
    if not stat.S_ISREG(seen.st_mode) or seen.st_uid not in owners or seen.st_mode & 0o022:
        raise ToolError(*BAD_OWNER)
    refused = mac.settings()["refused"]
    if not isinstance(keys, dict) or not is_job(keys) or (refused and refused in str(keys)):
        raise ToolError(*INPUT_OUTPUT)
    return keys


def is_job(keys: dict[str, Any]) -> bool:
    """Return whether the keys are of the types that launchd takes."""
    types: dict[str, Any] = {
        "Label": str,
        "Program": str,
        "UserName": str,
        "GroupName": str,
        "WorkingDirectory": str,
        "StandardOutPath": str,
        "StandardErrorPath": str,
        "ProcessType": str,
        "RunAtLoad": bool,
        "KeepAlive": (bool, dict),
        "ThrottleInterval": int,
        "ExitTimeOut": int,
        "StartInterval": int,
        "Umask": int,
        "EnvironmentVariables": dict,
        "SoftResourceLimits": dict,
        "HardResourceLimits": dict,
        "ProgramArguments": list,
    }
    texts = [*keys.get("ProgramArguments", []), *dict(keys.get("EnvironmentVariables", {})).values()]
    return (
        bool(keys.get("Label"))
        and bool(keys.get("Program") or keys.get("ProgramArguments"))
        and all(isinstance(value, types.get(name, object)) for name, value in keys.items())
        and all(isinstance(text, str) for text in texts)
        and keys.get("ProcessType", "Standard") in ("Background", "Standard", "Adaptive", "Interactive")
        and set(keys.get("SoftResourceLimits", {})) | set(keys.get("HardResourceLimits", {})) <= set(LIMITS)
    )


def main() -> None:
    mac.STATE.mkdir(parents=True, exist_ok=True)
    os.umask(0o22)
    launchd = Launchd()

    def finish(*_: object) -> None:
        launchd.is_ending = True

    signal.signal(signal.SIGTERM, finish)
    signal.signal(signal.SIGINT, finish)
    launchd.boot()
    launchd.serve()


if __name__ == "__main__":
    main()
