#!/usr/bin/python
"""Say what speaks against deploying to this host, all at once, without changing anything."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.state_folder import problem_of_owner

DOCUMENTATION = """
module: host_preflight
short_description: List what speaks against deploying to this host
options:
  state_dir: {description: The folder that the deployment may write., type: path, required: true}
  ports:
    description: The ports on 127.0.0.1 that must be free, or held by the supervised program of that name.
    type: dict
    required: true
  supervisorctl:
    description: The command that speaks to the supervisor, if there is one.
    type: list
    elements: str
    required: true
  free_bytes: {description: The free space that is needed., type: int, required: true}
  socket_path: {description: The longest path of a unix socket that will be made., type: str, required: true}
"""
PORTS = range(1, 65536)
OLDEST_PYTHON = (3, 11)
# 104 bytes on macOS, 108 on Linux, with the zero at the end; supervisord appends its PID while it binds.
LONGEST_SOCKET_PATH = 103 - len(".1234567")


def check_python():
    if sys.version_info < OLDEST_PYTHON:
        yield "Python {}.{} is too old: 3.11 or newer is needed. Name one in ATHENA_PYTHON.".format(*sys.version_info)


def check_folder(state_dir, free_bytes):
    ancestor = state_dir
    while not (ancestor.exists() or ancestor.is_symlink()):
        ancestor = ancestor.parent
    elsewhere = "Name another folder with -e athena_state_dir=FOLDER."
    if not ancestor.is_dir():
        yield f"{ancestor} is not a folder. {elsewhere}"
        return
    if not os.access(ancestor, os.W_OK | os.X_OK):
        yield f"{ancestor} is not writable by this user (uid {os.getuid()}). {elsewhere}"
        return
    if problem := problem_of_owner(state_dir):
        yield problem
    free = shutil.disk_usage(ancestor).free
    if free < free_bytes:
        yield f"{ancestor} has {free >> 20} MiB free, {free_bytes >> 20} MiB are needed. Free some, or: {elsewhere}"


def check_socket_path(path):
    length = len(os.fsencode(path))
    if length > LONGEST_SOCKET_PATH:
        yield (
            f"{path} is too long for a unix socket ({length} bytes, {LONGEST_SOCKET_PATH} are possible). "
            "Name a folder with a shorter path with -e athena_state_dir=FOLDER."
        )


def running_programs(supervisorctl):
    """Return the names of the programs that our own supervisor keeps running."""
    if not Path(supervisorctl[0]).exists():
        return set()
    listing = subprocess.run([*supervisorctl, "status"], capture_output=True, text=True, check=False).stdout
    return {line.split()[0] for line in listing.splitlines() if line.split()[1:2] == ["RUNNING"]}


def is_free(port):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError:
            return False
    return True


def check_ports(ports, supervisorctl):
    ours = None
    for name, port in sorted(ports.items()):
        if int(port) not in PORTS:
            yield f"athena_{name}_port must be a port, a number from 1 to 65535."
            continue
        if is_free(int(port)):
            continue
        ours = running_programs(supervisorctl) if ours is None else ours
        if name not in ours:
            yield (
                f"Port {port}, which is for {name}, is in use by another program (see it: lsof -i :{port}). "
                f"End that program, or take another port with -e athena_{name}_port=PORT."
            )
    numbers = [int(port) for port in ports.values()]
    for port in sorted({port for port in numbers if numbers.count(port) > 1}):
        yield f"Port {port} is given to more than one service: {', '.join(n for n in ports if int(ports[n]) == port)}."


def main():
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "ports": {"type": "dict", "required": True},
            "supervisorctl": {"type": "list", "elements": "str", "required": True},
            "free_bytes": {"type": "int", "required": True},
            "socket_path": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    asked = module.params
    problems = [
        *check_python(),
        *check_folder(Path(asked["state_dir"]), asked["free_bytes"]),
        *check_socket_path(asked["socket_path"]),
        *check_ports(asked["ports"], asked["supervisorctl"]),
    ]
    module.exit_json(changed=False, problems=problems, ansible_facts={"user_uid": os.getuid()})


if __name__ == "__main__":
    main()
