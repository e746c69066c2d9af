#!/usr/bin/python
"""Have the files of one model on a host: fetched or copied, converted if declared, whole, and known by their sums."""

import fcntl
import hashlib
import json
import os
import platform
import pwd
import shutil
import subprocess
import time
from pathlib import Path, PurePosixPath

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

DOCUMENTATION = """
module: mlx_model
short_description: Make, check and switch the files of one model
description: >-
  A model is made in a staging folder, which is renamed when it is whole; its manifest, written last, is what says so.
  The folder is named after what the model was made of, so that another declaration makes another folder beside it.
  Which of them is served is the link `current`, which `switched` changes, and nothing else.
options:
  state:
    description: >-
      `described`, know what a folder (`source`) holds; `look`, know whether the model is there and whole; `present`,
      make it where it is not; `switched`, have `current` lead to it; `tidied`, have no more than `keep` former ones.
    type: str
    choices: [described, look, present, switched, tidied]
    required: true
  folder: {description: The folder of this model., type: path}
  source: {description: "repository and revision; folder, with `identity` for its content; or random.", type: dict}
  quantise: {description: "mode, bits, group_size; empty, it stays as it is.", type: dict, default: {}}
  version: {description: The version of the converter., type: str, default: ''}
  sha256: {description: The sum that the files of the source must have; empty for any., type: str, default: ''}
  memory_bytes: {description: So large its files may be; 0 for any., type: int, default: 0}
  verify: {description: Whether files are read even if size and time are the known ones., type: bool, default: false}
  python: {description: The Python of the environment of MLX., type: path}
  tools: {description: The folder with the programs that fetch and make models., type: path}
  environment: {description: The environment of these programs., type: dict, default: {}}
  user: {description: In whose name they run., type: str, default: ''}
  key: {description: The name of the folder to switch to; empty for the one declared., type: str, default: ''}
  keep: {description: So many former ones are kept., type: int, default: 1}
  peers:
    description: "Hosts that may have it: `url`, and of the model there `key` and `sha256`, as that host itself said."
    type: list
    elements: dict
    default: []
"""
BLOCK = 1 << 20
UNREACHABLE = 3
PEER_SECONDS = 10
CURRENT = "current"


class ModelError(Exception):
    """What went wrong, in words for a person."""


class PeerError(ModelError):
    """Why a model cannot be copied from another host."""


# --- what files are ---------------------------------------------------------------------------------------------------


def files_of(folder):
    """Return relative path → path of all files of a folder, in the order of their names' bytes, without hidden ones."""
    found = {}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent) / name
            if not name.startswith("."):
                found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items(), key=lambda entry: entry[0].encode()))


def sum_of(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sum_of_all(sums):
    """Return the sum of the lines that `sha256sum` prints for files by their relative paths."""
    return hashlib.sha256("".join(f"{value}  {name}\n" for name, value in sums.items()).encode()).hexdigest()


def identity_of(folder):
    """Return what names the content of a folder without reading it: names, sizes and times."""
    digest = hashlib.sha256()
    for name, path in files_of(folder).items():
        seen = path.stat()
        digest.update(f"{name}\0{seen.st_size}\0{seen.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def describe(folder):
    """Return the manifest's entries for the files of a folder."""
    described = {}
    for name, path in files_of(folder).items():
        seen = path.stat()
        described[name] = {"sha256": sum_of(path), "size": seen.st_size, "mtime_ns": seen.st_mtime_ns}
    return described


def damage(folder, files, verify):
    """Yield what a folder has that its manifest does not say. Without `verify`, reads only files with another time."""
    there = files_of(folder)
    for name in sorted(set(there) - set(files)):
        yield f"{name} is not of the model"
    for name, known in files.items():
        if name not in there:
            yield f"{name} is missing"
            continue
        seen = there[name].stat()
        if seen.st_size != known["size"]:
            yield f"{name} has {seen.st_size} bytes instead of {known['size']}"
        elif (verify or seen.st_mtime_ns != known["mtime_ns"]) and sum_of(there[name]) != known["sha256"]:
            yield f"{name} has another content than when it was made"


def write(path, content):
    """Write a file, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(content)
    part.replace(path)


# --- one model --------------------------------------------------------------------------------------------------------


class Model:
    """One model as declared, with its folders."""

    def __init__(self, params):
        self.params = params
        self.folder = Path(params["folder"])
        self.quantise = params["quantise"]
        self.source = params["source"] or {}
        self.identity = self.describe_source()
        text = json.dumps(self.identity, sort_keys=True)
        self.key = params["key"] or hashlib.sha256(text.encode()).hexdigest()[:12]
        self.target = self.folder / self.key
        self.manifest_file = self.folder / f"{self.key}.json"
        self.staging = self.folder / f".{self.key}.part"
        # What comes from the hub, whole, until it is converted: a conversion that was cut off does not fetch it again.
        self.fetched = self.folder / f".{self.key}.source"
        # The peer that it was copied from, and why it was not copied from others.
        self.origin, self.refusals = "", []

    def describe_source(self):
        """Return what the model is made of; the converter belongs to that only if it has something to do."""
        if "repository" in self.source:
            origin = f"{self.source['repository']}@{self.source['revision']}"
        elif "random" in self.source:
            origin = "random weights"
        elif self.source:
            origin = f"folder {self.source.get('identity') or identity_of(Path(self.source['folder']))}"
        else:
            origin = ""
        return {
            "source": origin,
            "quantise": self.quantise,
            "mlx_lm": self.params["version"] if self.quantise else "",
        }

    def manifest(self):
        """Return what is known of the model; nothing if it is not whole."""
        try:
            known = json.loads(self.manifest_file.read_text())
        except (OSError, ValueError):
            return {}
        return known if self.target.is_dir() else {}

    def current(self):
        """Return the name of the folder that is served; empty if none."""
        link = self.folder / CURRENT
        return str(link.readlink()) if link.is_symlink() else ""

    def result(self, known):
        size = sum(entry["size"] for entry in known.get("files", {}).values())
        return {
            "key": self.key,
            "path": str(self.target),
            "current": self.current(),
            "sha256": known.get("sha256", ""),
            "version": version_of(known),
            "size": size,
        }

    # --- copying from another host ------------------------------------------------------------------------------------

    def copying(self):
        """Return the folder into which a peer's files come; it stays, so that a copy that was cut off goes on."""
        return self.fetched / "copied"

    def manifest_of(self, peer):
        """Return what a peer says of the same model; raises PeerError if that is not what is wanted."""
        url = f"{peer['url']}/{self.folder.name}/{self.key}.json"
        try:
            known = json.loads(open_url(url, timeout=PEER_SECONDS).read())
            files = {name: (entry["sha256"], entry["size"]) for name, entry in known["files"].items()}
            total = sum_of_all({name: known_sum for name, (known_sum, _) in files.items()})
            made_of = known["identity"], known["source_sha256"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PeerError(f"{url} does not tell what there is: {error}") from None
        # The peer's word counts for nothing that its host has not said over Ansible's own connection.
        if total != peer["sha256"] or made_of[0] != self.identity or not all(map(is_safe, files)):
            raise PeerError(f"{url} is another model than that host has")
        if self.params["sha256"] not in ("", made_of[1]):
            raise PeerError(f"{url} was made of files that have {made_of[1]}, and sha256 is {self.params['sha256']}")
        return known

    def copied(self, peer, lock):
        """Return the folder with a peer's files, and their source's sum; raises PeerError if they cannot be had."""
        known = self.manifest_of(peer)
        self.copying().mkdir(parents=True, exist_ok=True)
        give(self.fetched, self.params["user"])
        wanted = self.staging / "wanted.json"
        wanted.write_text(json.dumps({name: entry["size"] for name, entry in known["files"].items()}))
        url = f"{peer['url']}/{self.folder.name}/{self.key}"
        try:
            self.run([*self.tool("copy_model.py"), url, self.copying(), wanted], lock, f"Copying {url}")
        except ModelError as error:
            raise PeerError(str(error)) from None
        if sum_of_all({name: sum_of(path) for name, path in files_of(self.copying()).items()}) != peer["sha256"]:
            shutil.rmtree(self.copying())
            raise PeerError(f"{url} did not come as it is there, and was thrown away")
        made = self.staging / "model"
        self.copying().rename(made)
        return made, known["source_sha256"]

    def from_peers(self, lock):
        """Return the first copy that can be had, with the sum of what it was made of; None where none can."""
        for peer in self.params["peers"]:
            if peer["key"] != self.key:
                continue
            try:
                made, source_sum = self.copied(peer, lock)
            except PeerError as error:
                self.refusals.append(str(error))
            else:
                self.origin = peer["url"]
                return made, source_sum
        return None

    # --- making -------------------------------------------------------------------------------------------------------

    def run(self, command, lock, what, environment=None):
        """Run one of the programs in the user's name; it holds the lock too, so that nobody works beside it."""
        as_user = {}
        if self.params["user"] and os.geteuid() == 0:
            user = pwd.getpwnam(self.params["user"])
            as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            for folder in (self.staging, self.fetching(), self.copying()):
                if folder.exists():
                    os.chown(folder, user.pw_uid, user.pw_gid)
        ended = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, "HOME": str(self.staging), **self.params["environment"], **(environment or {})},
            cwd=self.staging,
            pass_fds=[lock.fileno()],
            capture_output=True,
            text=True,
            check=False,
            **as_user,
        )
        if ended.returncode:
            said = "".join((ended.stdout + ended.stderr).splitlines(True)[-8:]).strip()
            if ended.returncode < 0:
                said = f"it was killed by signal {-ended.returncode}. {said}"
            remedy = ""
            if "repository" in self.source and ended.returncode == UNREACHABLE:
                remedy = (
                    " The hub is not within reach, or does not give this model: look at source.repository,"
                    " source.revision, mlx_hub_endpoint and mlx_hub_token_file."
                )
            raise ModelError(f"{what} failed: {said}{remedy}")

    def tool(self, name):
        return [self.params["python"], Path(self.params["tools"]) / name]

    def fetching(self):
        """Return the folder into which the hub's files come; it stays, so that a download that was cut off goes on."""
        return self.fetched / "model.part"

    def obtain(self, lock):
        """Return the folder of the source, there and whole."""
        if "folder" in self.source:
            return Path(self.source["folder"])
        if "random" in self.source:
            made = self.staging / "random"
            self.run([*self.tool("tiny_mlx_model.py"), made], lock, "Making random weights")
            return made
        whole = self.fetched / "model"
        if not whole.exists():
            self.fetching().mkdir(parents=True, exist_ok=True)
            give(self.fetched, self.params["user"])
            command = [*self.tool("fetch_model.py"), self.source["repository"], whole, self.source["revision"]]
            self.run(command, lock, f"Fetching {self.source['repository']}")
        return whole

    def convert(self, source, made, lock):
        command = [
            *(Path(self.params["python"]).with_name("mlx_lm.convert"), "--hf-path", source, "--mlx-path", made),
            *("--quantize", "--q-mode", self.quantise["mode"]),
            *("--q-bits", self.quantise["bits"], "--q-group-size", self.quantise["group_size"]),
        ]
        self.run(command, lock, "The conversion with mlx_lm.convert", {"HF_HUB_OFFLINE": "1"})

    def make(self, lock):
        """Make the model, whole or not at all, and return its manifest."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(mode=0o755)
        made, source_sum = self.from_peers(lock) or self.from_source(lock)
        return self.take_in(made, source_sum)

    def from_source(self, lock):
        """Return the folder with what was made of the source, and the sum of the source's files."""
        source = self.obtain(lock)
        source_sum = sum_of_all({name: sum_of(path) for name, path in files_of(source).items()})
        if self.params["sha256"] not in ("", source_sum):
            shutil.rmtree(self.fetched, ignore_errors=True)  # so that the next run fetches it anew
            raise ModelError(
                f"sha256 is {self.params['sha256']}, and the files of the source have {source_sum}. Find out who"
                " changed them; if it was you, declare the latter."
            )
        made = self.staging / "model"
        if self.quantise:
            self.convert(source, made, lock)
        else:
            copy(source, made, is_ours=self.folder in source.parents)
        return made, source_sum

    def take_in(self, made, source_sum):
        """Have a folder be the model, if it can be, and return its manifest."""
        if not (made / "config.json").is_file() or not list(made.glob("*.safetensors")):
            raise ModelError("what was made has no config.json or no *.safetensors, so it is no model.")
        own(made)
        files = describe(made)
        size = sum(entry["size"] for entry in files.values())
        if 0 < self.params["memory_bytes"] < size:
            raise ModelError(
                f"memory_bytes is {self.params['memory_bytes']}, and its files alone have {size}. Declare more, or"
                " quantise it to fewer bits."
            )
        known = {
            "identity": self.identity,
            "source_sha256": source_sum,
            "sha256": sum_of_all({name: entry["sha256"] for name, entry in files.items()}),
            "made": time.time_ns(),
            "files": files,
        }
        self.put_in_place(made, known)
        return known

    def put_in_place(self, made, known):
        """Have the folder in its place; what was there, damaged or without a manifest, goes."""
        os.sync()
        self.manifest_file.unlink(missing_ok=True)
        if self.target.exists():
            self.target.rename(self.staging / "before")
        made.rename(self.target)
        write(self.manifest_file, json.dumps(known, indent=1))
        shutil.rmtree(self.staging)
        shutil.rmtree(self.fetched, ignore_errors=True)


def is_safe(name):
    """Return whether the path of a file stays inside the folder that it is relative to, and is none that is hidden."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not any(part.startswith((".", "/")) for part in parts)


def version_of(known):
    """Return what changes whenever the files were made anew, also as they were: a server may have read bad ones."""
    return f"{known['sha256'][:16]}-{known['made']}" if known else ""


def give(folder, user):
    """Have a folder be a user's, as far as we are root."""
    if user and os.geteuid() == 0:
        known = pwd.getpwnam(user)
        os.chown(folder, known.pw_uid, known.pw_gid)


def own(folder):
    """Have a folder be ours with all that is in it, and readable for all: its server cannot change it."""
    os.chown(folder, os.geteuid(), os.getegid())
    folder.chmod(0o755)
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(parent) / name
            os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)
            path.chmod(0o755 if name in folders else 0o644)


def copy(source, target, is_ours):
    """Copy the files of a model; what is ours, and goes afterwards, gets a second name instead.

    Where the file system is that of macOS, copies share their blocks, which takes neither time nor space.
    """
    for name, path in files_of(source).items():
        to = target / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if is_ours:
            os.link(path.resolve(), to)
        elif platform.system() == "Darwin":
            subprocess.run(["/bin/cp", "-c", "-L", path, to], check=True)
        else:
            shutil.copyfile(path, to)


# --- the states -------------------------------------------------------------------------------------------------------


def look(model, verify):
    """Return the manifest, nothing if the model has to be made, and what is damaged."""
    known = model.manifest()
    damaged = list(damage(model.target, known["files"], verify)) if known else []
    return known, damaged


def refuse_other_sum(model, known):
    declared = model.params["sha256"]
    if known and declared not in ("", known["source_sha256"]):
        raise ModelError(
            f"sha256 is {declared}, and the model that is there was made of files that have {known['source_sha256']}."
            " It was left as it is: correct the one, or the source."
        )


def have(module, model):
    """Have the model whole; return what is known of it."""
    known, damaged = look(model, model.params["verify"])
    refuse_other_sum(model, known)
    is_to_make = bool(damaged) or not known
    if is_to_make and not module.check_mode:
        model.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (model.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ModelError(
                    "another run makes it, or what a run that was cut off has left running. Wait until that is done, or"
                    f" end it: fuser {lock.name}"
                ) from None
            known = model.make(lock)
    return {
        "changed": is_to_make,
        "damaged": damaged,
        "copied_from": model.origin,
        "not_copied": model.refusals,
        **model.result(known),
    }


def switch(module, model):
    """Have `current` lead to the model's folder, in one step."""
    former = model.current()
    changed = former != model.key
    known_of_former = Model({**model.params, "key": former}).manifest() if former else {}
    if changed and not module.check_mode:
        if not model.manifest():
            raise ModelError(f"{model.target} is not whole, and cannot be served.")
        part = model.folder / f".{CURRENT}.part"
        part.unlink(missing_ok=True)
        part.symlink_to(model.key)
        part.replace(model.folder / CURRENT)
    return {
        "changed": changed,
        "former": {"key": former, "version": version_of(known_of_former)},
        **model.result(model.manifest()),
    }


def tidy(module, model):
    """Have no more than `keep` former models beside the one that is served, and nothing that was cut off."""
    served = model.current()
    if not served:
        return {"changed": False, "removed": []}
    not_former = (served, CURRENT)
    former = [path for path in model.folder.glob("[!.]*") if path.is_dir() and path.name not in not_former]
    former.sort(key=lambda path: path.stat().st_ctime)
    too_many = former[: max(0, len(former) - model.params["keep"])]
    cut_off = [path for path in model.folder.glob(".*") if path.is_dir()]
    if not module.check_mode:
        for path in [*too_many, *cut_off]:
            (model.folder / f"{path.name}.json").unlink(missing_ok=True)
            shutil.rmtree(path)
    removed = [str(path) for path in [*too_many, *cut_off]]
    return {"changed": bool(removed), "removed": removed}


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["described", "look", "present", "switched", "tidied"],
                "required": True,
            },
            "folder": {"type": "path"},
            "source": {"type": "dict"},
            "quantise": {"type": "dict", "default": {}},
            "version": {"type": "str", "default": ""},
            "sha256": {"type": "str", "default": ""},
            "memory_bytes": {"type": "int", "default": 0},
            "verify": {"type": "bool", "default": False},
            "python": {"type": "path"},
            "tools": {"type": "path"},
            "environment": {"type": "dict", "default": {}},
            "user": {"type": "str", "default": ""},
            "key": {"type": "str", "default": "", "no_log": False},
            "keep": {"type": "int", "default": 1},
            "peers": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        if params["state"] == "described":
            folder = Path(params["source"]["folder"])
            is_model = (folder / "config.json").is_file()
            module.exit_json(changed=False, identity=identity_of(folder) if is_model else "")
        model = Model(params)
        if params["state"] == "look":
            known, damaged = look(model, params["verify"])
            refuse_other_sum(model, known)
            module.exit_json(changed=False, whole=bool(known) and not damaged, damaged=damaged, **model.result(known))
        module.exit_json(**{"present": have, "switched": switch, "tidied": tidy}[params["state"]](module, model))
    except ModelError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
