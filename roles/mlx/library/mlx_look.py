#!/usr/bin/python
"""Look at a host before models are served there: what speaks against it, who has which port, what is left of others."""

import os
import platform
import pwd
import re
import shutil
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: mlx_look
short_description: Say what speaks against serving models on this host, and what is there of models
description: Changes nothing.
options:
  models: {description: The models as declared., type: list, elements: dict, required: true}
  models_dir: {description: The folder with a folder for each model., type: path, required: true}
  jobs: {description: The pattern of the files of jobs; the star is the model's name., type: str, required: true}
  user: {description: Whose processes the servers are., type: str, required: true}
  programs: {description: "Variable → the program that it names, which has to be there.", type: dict, default: {}}
  memory_bytes: {description: What all models together may have; 0 for the host's memory., type: int, default: 0}
"""
SOCKETS = ["ss", "-Hltnp"]
FILES = ["lsof", "-nP", "-iTCP", "-sTCP:LISTEN", "-Fpn"]


def parse_ss(output):
    """Return port → process from what `ss -Hltnp` prints; 0 where it does not tell the process."""
    owners = {}
    for line in output.splitlines():
        port = line.split()[3].rpartition(":")[2]
        process = re.search(r"pid=(\d+)", line)
        owners[int(port)] = int(process[1]) if process else 0
    return owners


def parse_lsof(output):
    """Return port → process from what `lsof -Fpn` prints: `pPROCESS`, then `nADDRESS:PORT` for each of its sockets."""
    owners, process = {}, 0
    for line in output.splitlines():
        if line.startswith("p"):
            process = int(line[1:])
        elif line.startswith("n"):
            owners[int(line.rpartition(":")[2])] = process
    return owners


def owners_of_ports(module):
    """Return port → process of all TCP ports that something listens on."""
    is_mac = platform.system() == "Darwin"
    name, *arguments = FILES if is_mac else SOCKETS
    program = module.get_bin_path(name, required=True, opt_dirs=["/usr/sbin", "/sbin"])
    ended = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    # lsof ends with 1 when it finds nothing.
    if ended.returncode and (not is_mac or ended.stderr):
        module.fail_json(msg=f"{name} ended with {ended.returncode}: {ended.stderr.strip()}")
    return (parse_lsof if is_mac else parse_ss)(ended.stdout)


def command_of(process):
    """Return the command line of a process; empty if it is gone."""
    ended = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(process)], capture_output=True, text=True, check=False
    )
    return ended.stdout.strip()


def model_of(command, models_dir):
    """Return the name of the model of ours that a command line serves; empty if none."""
    match = re.search(rf"--model {re.escape(str(models_dir))}/([a-z0-9._-]+)/current( |$)", command)
    return match[1] if match and "mlx_lm" in command else ""


def listeners(module, models_dir):
    """Return what listens on TCP ports: port, process, its command line, and the name of its model if it is ours."""
    found = []
    for port, process in sorted(owners_of_ports(module).items()):
        command = command_of(process) if process else ""
        found.append({"port": port, "pid": process, "command": command, "model": model_of(command, models_dir)})
    return found


def foreign_ports(models, heard, ours):
    """Yield the declared ports that something else than a server of ours listens on: one with a job, or declared."""
    by_port = {entry["port"]: entry for entry in heard}
    for model in models:
        entry = by_port.get(model.get("port"))
        if entry and entry["model"] not in ours:
            who = (
                f"process {entry['pid']} ({entry['command']})"
                if entry["pid"]
                else "a process that this user may not see"
            )
            yield (
                f"mlx_models: the port {model['port']} of {model['name']} is taken by {who}. End it, or declare"
                " another port"
            )


def in_the_way(models, heard):
    """Return the names of models whose servers listen on ports that are now declared for others."""
    declared = {model["port"]: model["name"] for model in models if "port" in model}
    return sorted({entry["model"] for entry in heard if declared.get(entry["port"], entry["model"]) != entry["model"]})


def missing(params):
    """Yield what is not there and other parts of a deployment make: a check, which has not made them, does not ask."""
    if not is_user(params["user"]):
        yield f"mlx_user: there is no account '{params['user']}'. Make it, or name another"
    for variable, program in params["programs"].items():
        if shutil.which(program) is None:
            yield f"{variable}: {program} is not a program that can be run. Install it, or name another"


def without_files(models):
    """Yield the folders of models that are not there, which nothing of a deployment makes."""
    for model in models:
        folder = model["source"].get("folder")
        if folder and not (Path(folder) / "config.json").is_file():
            yield f"mlx_models: {model['name']}: source.folder, {folder}, is not a folder with a model (config.json)"


def is_user(name):
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def too_much(models, memory_bytes):
    """Yield that the models' budgets are more than there is."""
    wanted = sum(model.get("memory_bytes", 0) for model in models)
    there = memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if wanted > there:
        yield (
            f"mlx_models: the memory_bytes of all models are {wanted}, and mlx_memory_bytes or this host has {there}."
            " Serve fewer, or smaller ones"
        )


def jobs_of(pattern):
    """Return the names of the models that have jobs on this host, in their order."""
    folder, _, start_and_end = pattern.rpartition("/")
    start, _, end = start_and_end.partition("*")
    found = {path.name[len(start) : -len(end)] for path in Path(folder).glob(start_and_end)}
    # Of a job that was removed halfway there is still the one that empties its log, NAME.log.
    return sorted({name.removesuffix(".log") for name in found})


def folders_without_model(models_dir, names):
    """Return the names of folders of models that are no longer declared."""
    if not models_dir.is_dir():
        return []
    return sorted(
        path.name
        for path in models_dir.iterdir()
        if path.is_dir() and path.name not in names and (path / "current").is_symlink()
    )


def against(params, heard, ours, *, is_check):
    """Return all that speaks against serving the models here."""
    models = params["models"]
    return [
        *foreign_ports(models, heard, ours),
        *too_much(models, params["memory_bytes"]),
        *without_files(models),
        *([] if is_check else missing(params)),
    ]


def main():
    module = AnsibleModule(
        argument_spec={
            "models": {"type": "list", "elements": "dict", "required": True},
            "models_dir": {"type": "path", "required": True},
            "jobs": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
            "programs": {"type": "dict", "default": {}},
            "memory_bytes": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = module.params
    models, models_dir = params["models"], Path(params["models_dir"])
    # Without a declared model no port matters: the program that tells of them may not be there.
    heard = listeners(module, models_dir) if models else []
    names = [model["name"] for model in models]
    jobs = jobs_of(params["jobs"])
    others = set(jobs) - {model["name"] for model in models if "port" in model}
    ours = {*names, *others}
    module.exit_json(
        changed=False,
        problems=against(params, heard, ours, is_check=module.check_mode),
        jobs=jobs,
        retired=sorted({*others, *in_the_way(models, [entry for entry in heard if entry["model"] in ours])}),
        listeners=[entry for entry in heard if entry["model"]],
        other_folders=folders_without_model(models_dir, names),
    )


if __name__ == "__main__":
    main()
