#!/usr/bin/env python3
"""brew: installs what the settings say there is, and runs it as a service of launchd."""

import json
import os
import plistlib
import pwd
import subprocess
from pathlib import Path
from typing import Any

import mac
from mac import ToolError, say

PREFIX = Path("/opt/homebrew")


def formula(name: str) -> dict[str, Any]:
    found: dict[str, Any] | None = mac.settings()["formulae"].get(name)
    if found is None:
        raise ToolError(1, f'Warning: No available formula with the name "{name}".')
    return found


def keg(name: str) -> str:
    """Return what the folder of an installed formula is named: its version, with its revision where it has one."""
    found = formula(name)
    return f"{found['version']}_{found['revision']}" if found.get("revision") else str(found["version"])


def install(arguments: list[str]) -> None:
    installed = mac.read("brew", {})
    for name in arguments:
        version = keg(name)
        if installed.get(name) == version:
            say(f"Warning: {name} {version} is already installed and up-to-date.")
        else:
            say(f"==> Pouring {name}--{version}.arm64_sequoia.bottle.tar.gz")
        installed[name] = version
    mac.keep("brew", installed)


def list_(arguments: list[str]) -> None:
    installed = mac.read("brew", {})
    names = [word for word in arguments if not word.startswith("-")]
    for name in names:
        if name not in installed:
            raise ToolError(1, f"Error: No such keg: {PREFIX}/Cellar/{name}")
    shown = names or sorted(installed)
    say(*(f"{name} {installed[name]}" if "--versions" in arguments else name for name in shown))


def info(name: str) -> None:
    version, installed = formula(name)["version"], mac.read("brew", {}).get(name)
    kegs = [{"version": installed}] if installed else []
    revision = formula(name).get("revision", 0)
    said = {
        "name": name,
        "versions": {"stable": version},
        "revision": revision,
        "linked_keg": installed,
        "installed": kegs,
    }
    say(json.dumps({"formulae": [said], "casks": []}))


def services(arguments: list[str]) -> None:
    action, *rest = arguments or ["list"]
    user = pwd.getpwuid(os.geteuid())
    if action == "list":
        labels = {name: f"homebrew.mxcl.{name}" for name in mac.read("brew", {}) if formula(name).get("service")}
        states = {name: launchctl("print", f"gui/{user.pw_uid}/{label}") for name, label in labels.items()}
        rows = [
            {"name": name, "status": "started" if seen.returncode == 0 else "none"} for name, seen in states.items()
        ]
        say(json.dumps(rows)) if "--json" in rest else say(*(f"{row['name']} {row['status']}" for row in rows))
        return
    if action not in ("start", "stop") or len(rest) != 1:
        raise ToolError(1, "Error: Invalid usage: brew services [list | start | stop] formula")
    name = rest[0]
    plist = Path(user.pw_dir) / "Library" / "LaunchAgents" / f"homebrew.mxcl.{name}.plist"
    if action == "start":
        plist.parent.mkdir(parents=True, exist_ok=True)
        plist.write_bytes(plistlib.dumps({"Label": f"homebrew.mxcl.{name}", **formula(name)["service"]}))
        command = ["bootstrap", f"gui/{user.pw_uid}", str(plist)]
    else:
        command = ["bootout", f"gui/{user.pw_uid}/homebrew.mxcl.{name}"]
    done = launchctl(*command)
    if done.returncode:
        failure = f"Error: Failure while executing; `/bin/launchctl {' '.join(command)}` exited with {done.returncode}."
        raise ToolError(1, f"{done.stderr}{failure}")
    if action == "stop":
        plist.unlink()


def launchctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["launchctl", *arguments], capture_output=True, text=True, check=False)


def main(arguments: list[str]) -> None:
    if mac.is_root():
        raise ToolError(1, "Error: Running Homebrew as root is extremely dangerous and no longer supported.")
    match arguments:
        case ["--prefix"]:
            say(str(PREFIX))
        case ["--prefix", name]:
            say(str(PREFIX / "opt" / name))
        case ["install", *names] if names:
            install([name for name in names if not name.startswith("-")])
        case ["info", "--json=v2", name]:
            info(name)
        case ["list", *names]:
            list_(names)
        case ["services", *rest]:
            services(rest)
        case _:
            raise ToolError(1, f"Error: Unknown command: brew {' '.join(arguments)}")


if __name__ == "__main__":
    mac.run("brew", main)
