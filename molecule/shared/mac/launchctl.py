#!/usr/bin/env python3
"""launchctl: the subcommands that the roles and their tests use, with the answers and exit codes of the real one."""

import json
import os
import re
import signal
import socket
import time
from typing import Any

import mac
from mac import ToolError, say

USAGE = 64
BOOTOUT_SECONDS = 0.25  # so long it waits by itself for the process' end
IN_PROGRESS = (36, "Operation now in progress")
NAMES = {"system": "system", "user": "user", "gui": "user gui"}
TARGET = re.compile(r"(?P<domain>system|(user|gui)/\d+)(/(?P<label>[^/]+))?")


def ask(action: str, domain: str, **more: Any) -> Any:
    """Ask launchd."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(mac.SOCKET))
        connection.sendall(json.dumps({"action": action, "domain": domain, **more}).encode() + b"\n")
        reply = json.loads(connection.makefile().readline())
    if "error" in reply:
        raise ToolError(reply["code"], reply["error"])
    return reply["answer"]


def split(target: str, *, with_label: bool) -> tuple[str, str]:
    """Return domain and label of a target."""
    match = TARGET.fullmatch(target)
    if match is None or bool(match["label"]) != with_label:
        raise ToolError(USAGE, f"Unrecognized target specifier: {target}")
    return match["domain"], match["label"] or ""


def words(domain: str) -> str:
    """Return a domain as messages name it."""
    kind, _, number = domain.partition("/")
    return f"{NAMES[kind]}: {number}" if number else NAMES[kind]


def explain(error: ToolError, domain: str, label: str) -> ToolError:
    """Return what is said of a service or a domain that is not there."""
    texts = {
        112: f"Could not find domain for {words(domain)}",
        113: f'Could not find service "{label}" in domain for {words(domain)}',
    }
    return ToolError(error.code, texts.get(error.code, f"{error.code}: {error}"))


def bootstrap(arguments: list[str]) -> None:
    domain, _ = split(arguments[0], with_label=False)
    for path in arguments[1:]:
        try:
            ask("bootstrap", domain, path=os.path.abspath(path))  # noqa: PTH100  # links are not followed
        except ToolError as error:
            hint = "" if error.code != 5 or mac.is_root() else "\nTry re-running the command as root for richer errors."
            raise ToolError(error.code, f"Bootstrap failed: {error.code}: {error}{hint}") from None


def bootout(arguments: list[str]) -> None:
    if len(arguments) == 1:
        domain, label = split(arguments[0], with_label=True)
    else:
        domain, _ = split(arguments[0], with_label=False)
        label = next((job["label"] for job in ask("jobs", domain) if job["path"] == arguments[1]), "")
    try:
        ask("bootout", domain, label=label)
        wait_for_end(domain, label)
    except ToolError as error:
        raise ToolError(error.code, f"Boot-out failed: {error.code}: {error}") from None


def wait_for_end(domain: str, label: str) -> None:
    deadline = time.monotonic() + BOOTOUT_SECONDS
    while label in [job["label"] for job in ask("jobs", domain)]:
        if time.monotonic() > deadline:
            raise ToolError(*IN_PROGRESS)
        time.sleep(0.02)


def enable(arguments: list[str]) -> None:
    ask("enable", **target(arguments))


def disable(arguments: list[str]) -> None:
    ask("disable", **target(arguments))


def target(arguments: list[str]) -> dict[str, Any]:
    domain, label = split(arguments[0], with_label=True)
    return {"domain": domain, "label": label}


def kickstart(arguments: list[str]) -> None:
    options = {letter for word in arguments[:-1] for letter in word.removeprefix("-")}
    where = target(arguments[-1:])
    try:
        job = ask("kickstart", **where, kill="k" in options)
    except ToolError as error:
        raise explain(error, **where) from None
    if "p" in options:
        say(f"service spawned with pid: {job['pid']}")


def kill(arguments: list[str]) -> None:
    name = arguments[0].upper().removeprefix("SIG")
    number = int(name) if name.isdigit() else signal.Signals[f"SIG{name}"].value
    where = target(arguments[1:])
    try:
        ask("kill", **where, signal=number)
    except ToolError as error:
        raise explain(error, **where) from None


def print_(arguments: list[str]) -> None:
    if TARGET.fullmatch(arguments[0]) and not TARGET.fullmatch(arguments[0])["label"]:  # type: ignore[index]
        print_domain(arguments[0])
        return
    where = target(arguments)
    try:
        job = ask("print", **where)
    except ToolError as error:
        raise ToolError(error.code, f"Bad request.\n{explain(error, **where)}") from None
    say(*described(job))


def print_domain(domain: str) -> None:
    disabled = ask("disabled", domain)
    say(f"{domain} = {{", "\ttype = system", "\tservices = {")
    for job in ask("jobs", domain):
        say(f"\t\t{job['pid'] or 0:8d}      {job['last_exit'] or '-'} \t{job['label']}")
    say("\t}", "\tdisabled services = {")
    say(*(f'\t\t"{label}" => {"disabled" if is_disabled else "enabled"}' for label, is_disabled in disabled.items()))
    say("\t}", "}")


def described(job: dict[str, Any]) -> list[str]:
    """Return what the real one prints of a job, without the parts that only Mach has."""
    keys, is_daemon = job["keys"], job["domain"] == "system"
    lines = [
        f"{job['domain']}/{job['label']} = {{",
        f"\tactive count = {1 if job['pid'] else 0}",
        f"\tpath = {job['path']}",
        f"\ttype = {'LaunchDaemon' if is_daemon else 'LaunchAgent'}",
        f"\tstate = {job['state']}",
        "",
        f"\tprogram = {job['program']}",
        *block("arguments", job["arguments"]),
        "",
    ]
    if "WorkingDirectory" in keys:
        lines += [f"\tworking directory = {keys['WorkingDirectory']}", ""]
    lines += [f"\t{name} = {keys[key]}" for name, key in PATHS.items() if key in keys]
    lines += block("default environment", ["PATH => /usr/bin:/bin:/usr/sbin:/sbin"])
    lines += ["", *block("environment", [f"{name} => {value}" for name, value in job["environment"].items()]), ""]
    lines += [f"\tdomain = {job['domain']}"]
    if "UserName" in keys and is_daemon:
        lines += [f"\tusername = {keys['UserName']}"]
    lines += [
        f"\tminimum runtime = {job['throttle']:.0f}",
        f"\texit timeout = {job['exit_timeout']:.0f}",
        f"\truns = {job['runs']}",
    ]
    if job["pid"]:
        lines += [f"\tpid = {job['pid']}", "\timmediate reason = speculative"]
    lines += [last_end(job), ""]
    # A coalition has a state of its own, which is not the job's.
    lines += block("resource coalition", ["ID = 4782", "type = resource", "state = active", "active count = 1"])
    properties = [name for name, key in PROPERTIES.items() if keys.get(key)]
    return [*lines, "", "\tspawn type = daemon (3)", "", f"\tproperties = {' | '.join(properties)}", "}"]


PATHS = {"stdout path": "StandardOutPath", "stderr path": "StandardErrorPath"}
PROPERTIES = {"keepalive": "KeepAlive", "runatload": "RunAtLoad"}


def block(name: str, lines: list[str]) -> list[str]:
    return [f"\t{name} = {{", *(f"\t\t{line}" for line in lines), "\t}"]


def last_end(job: dict[str, Any]) -> str:
    if job["last_signal"] is not None:
        return f"\tlast terminating signal = {signal.strsignal(job['last_signal'])}: {job['last_signal']}"
    if job["last_exit"] is None:
        return "\tlast exit code = (never exited)"
    return f"\tlast exit code = {job['last_exit']}" + (": EX_CONFIG" if job["last_exit"] == 78 else "")


def print_disabled(arguments: list[str]) -> None:
    domain, _ = split(arguments[0], with_label=False)
    try:
        disabled = ask("disabled", domain)
    except ToolError as error:
        raise ToolError(error.code, f"Bad request.\n{explain(error, domain, '')}") from None
    say("disabled services = {")
    say(*(f'\t"{label}" => {"disabled" if is_disabled else "enabled"}' for label, is_disabled in disabled.items()))
    say("}")


def list_(arguments: list[str]) -> None:
    number = os.geteuid()
    domain = "system" if mac.is_root() else f"gui/{number}" if number in mac.settings()["logins"] else f"user/{number}"
    jobs = {job["label"]: job for job in ask("jobs", domain)}
    if not arguments:
        say("PID\tStatus\tLabel", *(f"{job['pid'] or '-'}\t{status(job)}\t{label}" for label, job in jobs.items()))
        return
    if arguments[0] not in jobs:
        raise ToolError(113, f'Could not find service "{arguments[0]}" in domain for port')
    job = jobs[arguments[0]]
    say("{", f'\t"LimitLoadToSessionType" = "{"System" if domain == "system" else "Aqua"}";')
    say(f'\t"Label" = "{job["label"]}";', f'\t"OnDemand" = {"false" if job["keys"].get("KeepAlive") else "true"};')
    say(f'\t"LastExitStatus" = {job["last_signal"] or (job["last_exit"] or 0) << 8};')
    if job["pid"]:
        say(f'\t"PID" = {job["pid"]};')
    say(f'\t"Program" = "{job["program"]}";', "};")


def status(job: dict[str, Any]) -> int:
    return -job["last_signal"] if job["last_signal"] is not None else job["last_exit"] or 0


# Each with the smallest and the largest number of arguments.
SUBCOMMANDS = {
    "bootstrap": (bootstrap, 2, 99),
    "bootout": (bootout, 1, 2),
    "enable": (enable, 1, 1),
    "disable": (disable, 1, 1),
    "kickstart": (kickstart, 1, 3),
    "kill": (kill, 2, 2),
    "print": (print_, 1, 1),
    "print-disabled": (print_disabled, 1, 1),
    "list": (list_, 0, 1),
}


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in SUBCOMMANDS:
        raise ToolError(USAGE, f"Unrecognized subcommand: {' '.join(arguments[:1])}")
    subcommand, fewest, most = SUBCOMMANDS[arguments[0]]
    if not fewest <= len(arguments) - 1 <= most:
        raise ToolError(USAGE, f"Usage: launchctl {arguments[0]} …")
    subcommand(arguments[1:])


if __name__ == "__main__":
    mac.run("launchctl", main)
