#!/usr/bin/python
"""Say who listens on a port, beside a process that may."""

import re
import subprocess

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: ollama_port
short_description: List the processes that listen on a TCP port, without one that may
options:
  port: {description: The port., type: int, required: true}
  own_pid: {description: The process that may., type: int, default: 0}
"""


def of_lsof(printed: str) -> list[dict[str, str]]:
    """Return the listeners that `lsof -F pnL` shows: a line for each field."""
    found: list[dict[str, str]] = []
    for line in printed.splitlines():
        if line[:1] == "p":
            found.append({"pid": line[1:], "address": ""})
        elif line[:1] == "n" and found:
            found[-1]["address"] = found[-1]["address"] or line[1:]
    return found


def of_ss(printed: str) -> list[dict[str, str]]:
    """Return the listeners that `ss -Hltnp` shows; process 0 where it does not say whose."""
    found: dict[str, dict[str, str]] = {}
    for line in printed.splitlines():
        address = line.split()[3]
        for pid in re.findall(r"pid=(\d+)", line) or ["0"]:
            found.setdefault(pid, {"pid": pid, "address": address})
    return list(found.values())


def listeners(module: AnsibleModule, port: int) -> list[dict[str, str]]:
    """Return who listens, by the tool that the system has: `ss` on Linux, `lsof` on a Mac."""
    lsof, ss = module.get_bin_path("lsof", opt_dirs=["/usr/sbin"]), module.get_bin_path("ss", opt_dirs=["/usr/sbin"])
    if lsof:
        return of_lsof(run(lsof, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpn"))
    if not ss:
        module.fail_json(
            msg=f"Neither lsof nor ss is there to say who listens on port {port}: install iproute2 or lsof."
        )
    return of_ss(run(ss, "-Hltnp", f"sport = :{port}"))


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def describe(listener: dict[str, str]) -> dict[str, str]:
    """Add whose process it is, and what it runs."""
    user, _, command = run("ps", "-o", "user=,args=", "-p", listener["pid"]).strip().partition(" ")
    return {**listener, "user": user or "unknown", "command": command.strip() or "a process that cannot be seen"}


def main() -> None:
    module = AnsibleModule(
        argument_spec={"port": {"type": "int", "required": True}, "own_pid": {"type": "int", "default": 0}},
        supports_check_mode=True,
    )
    own = str(module.params["own_pid"])
    found = [describe(each) for each in listeners(module, module.params["port"]) if each["pid"] != own or own == "0"]
    module.exit_json(changed=False, listeners=found)


if __name__ == "__main__":
    main()
