#!/usr/bin/python
"""Have one program of the supervisor as declared: its file, the supervisor's knowledge of it, and its process."""

import http.client
import os
import socket
import xmlrpc.client
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: supervised_program
short_description: Declare, start, restart or remove one program of supervisord
description: The program is started anew when its declaration changed, started when it does not run, else left alone.
options:
  name: {description: The program., type: str, required: true}
  folder: {description: The supervisor's folder; its socket is `sock` in it., type: path, required: true}
  declaration: {description: The content of the program's file; it may hold secrets., type: str}
  state: {description: Whether it is to run or not to be there., choices: [started, absent], default: started}
"""
ALIVE = ("RUNNING", "STARTING")
STOP_SECONDS = 60


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


def is_written(path, declaration):
    return path.exists() and path.read_text() == declaration


def write(path, declaration):
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(declaration)
    part.replace(path)


def apply(supervisor, name):
    """Make the supervisor do what its files say of this program; return whether that changed anything."""
    added, changed, removed = supervisor.reloadConfig()[0]
    if name in changed + removed:
        supervisor.stopProcessGroup(name)
        supervisor.removeProcessGroup(name)
    if name in added + changed:
        supervisor.addProcessGroup(name)
    return name in added + changed + removed


def start(supervisor, name):
    """Start the program if it does not run; return whether that was so."""
    if supervisor.getProcessInfo(name)["statename"] in ALIVE:
        return False
    supervisor.startProcess(name, False)
    return True


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "folder": {"type": "path", "required": True},
            "declaration": {"type": "str", "no_log": True},
            "state": {"type": "str", "choices": ["started", "absent"], "default": "started"},
        },
        required_if=[("state", "started", ["declaration"])],
        supports_check_mode=True,
    )
    name, is_wanted = module.params["name"], module.params["state"] == "started"
    folder = Path(module.params["folder"])
    path = folder / "programs" / f"{name}.conf"
    declaration = module.params["declaration"]
    is_current = is_written(path, declaration) if is_wanted else not path.exists()
    if module.check_mode:
        module.exit_json(changed=not is_current, restarted=False)
    if not is_current and is_wanted:
        write(path, declaration)
    elif not is_current:
        path.unlink()
    supervisor = xmlrpc.client.ServerProxy("http://localhost", transport=UnixTransport(str(folder / "sock"))).supervisor
    try:
        is_restarted = apply(supervisor, name)
        is_started = is_wanted and start(supervisor, name)
    except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
        module.fail_json(msg=f"The supervisor in {folder} refuses {name}, or does not answer: {error}")
    module.exit_json(changed=not is_current or is_restarted or is_started, restarted=is_restarted or is_started)


if __name__ == "__main__":
    main()
