"""One model on its host: what it is made of, where its folders are, and how it is copied, fetched and converted.

It is made in a staging folder, which is renamed when it is whole; its manifest, written last, is what says so.
"""

from __future__ import annotations  # a host's Python may be 3.9

import hashlib
import json
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ansible.module_utils.mlx_files import (
    copy,
    describe,
    files_of,
    give,
    identity_of,
    is_safe,
    own,
    sum_of,
    sum_of_all,
    write,
)
from ansible.module_utils.urls import open_url

UNREACHABLE = 3  # what fetch_model.py exits with where the hub cannot be had
HUB_REMEDY = (
    " The hub is not within reach, or does not give this model: look at source.repository, source.revision,"
    " mlx_hub_endpoint and mlx_hub_token_file."
)
PEER_SECONDS = 10
CURRENT = "current"


class ModelError(Exception):
    """What went wrong, in words for a person."""


class PeerError(ModelError):
    """Why a model cannot be copied from another host."""


def version_of(known: Mapping[str, Any]) -> str:
    """Return what changes whenever the files were made anew, also as they were: a server may have read bad ones."""
    return f"{known['sha256'][:16]}-{known['made']}" if known else ""


class Model:
    """One model as declared, with its folders."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params
        self.folder = Path(params["folder"])
        self.quantise: dict[str, Any] = params["quantise"]
        self.source: dict[str, Any] = params["source"] or {}
        self.identity = self.describe_source()
        text = json.dumps(self.identity, sort_keys=True)
        self.key: str = params["key"] or hashlib.sha256(text.encode()).hexdigest()[:12]
        self.target = self.folder / self.key
        self.manifest_file = self.folder / f"{self.key}.json"
        self.staging = self.folder / f".{self.key}.part"
        # What comes from the hub, whole, until it is converted: a conversion that was cut off does not fetch it again.
        self.fetched = self.folder / f".{self.key}.source"
        # The peer that it was copied from, and why it was not copied from others.
        self.origin = ""
        self.refusals: list[str] = []

    def describe_source(self) -> dict[str, Any]:
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

    def manifest(self) -> dict[str, Any]:
        """Return what is known of the model; nothing if it is not whole."""
        try:
            known: dict[str, Any] = json.loads(self.manifest_file.read_text())
        except (OSError, ValueError):
            return {}
        return known if self.target.is_dir() else {}

    def current(self) -> str:
        """Return the name of the folder that is served; empty if none."""
        link = self.folder / CURRENT
        return str(link.readlink()) if link.is_symlink() else ""

    def result(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the module tells of the model."""
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

    def copying(self) -> Path:
        """Return the folder into which a peer's files come; it stays, so that a copy that was cut off goes on."""
        return self.fetched / "copied"

    def manifest_of(self, peer: Mapping[str, str]) -> dict[str, Any]:
        """Return what a peer says of the same model; raises PeerError if that is not what is wanted."""
        url = f"{peer['url']}/{self.folder.name}/{self.key}.json"
        try:
            known: dict[str, Any] = json.loads(open_url(url, timeout=PEER_SECONDS, use_proxy=False).read())
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

    def copied(self, peer: Mapping[str, str], lock: IO[str]) -> tuple[Path, str]:
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

    def from_peers(self, lock: IO[str]) -> tuple[Path, str] | None:
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

    def run(
        self,
        command: Sequence[Any],
        lock: IO[str],
        what: str,
        environment: Mapping[str, str] | None = None,
        unreachable: str = "",
    ) -> None:
        """Run one of the programs in the user's name; it holds the lock too, so that nobody works beside it.

        Raises ModelError with its last words where it fails, and with `unreachable` where it says that.
        """
        as_user: dict[str, Any] = {}
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
            raise ModelError(f"{what} failed: {said}{unreachable if ended.returncode == UNREACHABLE else ''}")

    def tool(self, name: str) -> list[Any]:
        """Return the command of one of the role's programs."""
        return [self.params["python"], Path(self.params["tools"]) / name]

    def fetching(self) -> Path:
        """Return the folder into which the hub's files come; it stays, so that a download that was cut off goes on."""
        return self.fetched / "model.part"

    def obtain(self, lock: IO[str]) -> Path:
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
            self.run(command, lock, f"Fetching {self.source['repository']}", unreachable=HUB_REMEDY)
        return whole

    def convert(self, source: Path, made: Path, lock: IO[str]) -> None:
        """Quantise a model as declared."""
        command = [
            *(Path(self.params["python"]).with_name("mlx_lm.convert"), "--hf-path", source, "--mlx-path", made),
            *("--quantize", "--q-mode", self.quantise["mode"]),
            *("--q-bits", self.quantise["bits"], "--q-group-size", self.quantise["group_size"]),
        ]
        self.run(command, lock, "The conversion with mlx_lm.convert", {"HF_HUB_OFFLINE": "1"})

    def make(self, lock: IO[str]) -> dict[str, Any]:
        """Make the model, whole or not at all, and return its manifest."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(mode=0o755)
        made, source_sum = self.from_peers(lock) or self.from_source_instead(lock)
        return self.take_in(made, source_sum)

    def from_source_instead(self, lock: IO[str]) -> tuple[Path, str]:
        """Return the same as `from_source`; where that fails as well, it is told why there is no copy either."""
        try:
            return self.from_source(lock)
        except ModelError as error:
            if not self.refusals:
                raise
            refusals = "; ".join(self.refusals)
            raise ModelError(f"{error} Nor could it be copied from another host: {refusals}") from None

    def from_source(self, lock: IO[str]) -> tuple[Path, str]:
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

    def take_in(self, made: Path, source_sum: str) -> dict[str, Any]:
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

    def put_in_place(self, made: Path, known: Mapping[str, Any]) -> None:
        """Have the folder in its place; what was there, damaged or without a manifest, goes."""
        os.sync()
        self.manifest_file.unlink(missing_ok=True)
        if self.target.exists():
            self.target.rename(self.staging / "before")
        made.rename(self.target)
        write(self.manifest_file, json.dumps(known, indent=1))
        shutil.rmtree(self.staging)
        shutil.rmtree(self.fetched, ignore_errors=True)
