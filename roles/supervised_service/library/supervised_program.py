#!/usr/bin/python
"""Have programs of the supervisor as declared: their files, the supervisor's knowledge of them, their processes."""

import http.client
import os
import socket
import subprocess
import time
import xmlrpc.client
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: supervised_program
short_description: Declare, start, restart or remove programs of supervisord
description: >-
  The supervisor is started if it does not run. A program is started anew when its declaration changed, started when it
  does not run, and otherwise left alone.
options:
  folder: {description: The supervisor's folder; its socket is `sock` in it., type: path, required: true}
  supervisord: {description: The program that starts the supervisor., type: path, required: true}
  declarations: {description: The content of each program's file by name; it may hold secrets., type: dict, default: {}}
  absent: {description: The programs that are not to be there., type: list, elements: str, default: []}
"""
ALIVE = ("RUNNING", "STARTING")
STOP_SECONDS = 60
STILL_RUNNING = 91  # supervisord's fault
# Nothing else of the person who deploys reaches a service.
KEPT_VARIABLES = ("PATH", "HOME", "SSL_CERT_FILE")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(STOP_SECONDS)
        self.sock.connect(self.path)


class UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over a unix socket."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def make_connection(self, host):
        return UnixConnection(self.path)


def connect(folder, supervisord):
    """Return the supervisor, and whether it had to be started."""
    transport = UnixTransport(str(folder / "sock"))
    supervisor = xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor
    try:
        supervisor.getState()
    except OSError:
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        start = [supervisord, "-c", str(folder / "supervisord.conf")]
        subprocess.run(start, env={**kept, "LANG": "C.UTF-8"}, capture_output=True, text=True, check=True)
        return supervisor, True
    return supervisor, False


def stopped(folder, names):
    """Return those of the programs that do not run, without starting anything."""
    supervisor = xmlrpc.client.ServerProxy("http://localhost", transport=UnixTransport(str(folder / "sock"))).supervisor
    try:
        running = {info["name"] for info in supervisor.getAllProcessInfo() if info["statename"] in ALIVE}
    except OSError:
        running = set()
    return set(names) - running


def is_written(path, declaration):
    return path.exists() and path.read_text() == declaration


def write(path, declaration):
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(declaration)
    part.replace(path)


def apply(supervisor, wanted):
    """Make the supervisor do what its files say of these programs; return those that this changed."""
    added, changed, removed = (set(names) & wanted for names in supervisor.reloadConfig()[0])
    for name in changed | removed:
        remove(supervisor, name)
    for name in added | changed:
        supervisor.addProcessGroup(name)
    return added | changed | removed


def remove(supervisor, name):
    """Stop a program and forget it. One that dies again and again may be started anew between the two calls."""
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        supervisor.stopProcessGroup(name)
        try:
            supervisor.removeProcessGroup(name)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != STILL_RUNNING or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(0.1)


def start(supervisor, names):
    """Start those of the programs that do not run, and return them."""
    stopped = {name for name in names if supervisor.getProcessInfo(name)["statename"] not in ALIVE}
    for name in stopped:
        supervisor.startProcess(name, False)
    return stopped


def main():
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "supervisord": {"type": "path", "required": True},
            "declarations": {"type": "dict", "no_log": True, "default": {}},
            "absent": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    folder = Path(module.params["folder"])
    declarations, absent = module.params["declarations"], set(module.params["absent"])

    def path(name):
        return folder / "programs" / f"{name}.conf"

    differing = {name for name, text in declarations.items() if not is_written(path(name), text)}
    present = {name for name in absent if path(name).exists()}
    if module.check_mode:
        module.exit_json(changed=bool(differing or present or stopped(folder, declarations)), started=[])
    for name in differing:
        write(path(name), declarations[name])
    for name in present:
        path(name).unlink()
    if not declarations and not present:
        module.exit_json(changed=False, started=[])
    try:
        supervisor, is_new = connect(folder, module.params["supervisord"])
        started = apply(supervisor, set(declarations) | absent) | start(supervisor, declarations)
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"The supervisor in {folder} does not start: {error.stdout}{error.stderr}")
    except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
        module.fail_json(msg=f"The supervisor in {folder} refuses, or does not answer: {error}")
    module.exit_json(changed=bool(differing or present or started or is_new), started=sorted(started))


if __name__ == "__main__":
    main()
