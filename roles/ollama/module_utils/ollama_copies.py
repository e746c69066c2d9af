"""How a model of another host comes to an Ollama: which host's is taken, and why that of others is not."""

from __future__ import annotations  # a host's Python may be 3.9

import json
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.ollama_pulls import how_far

PAUSED = 4  # how the program ends that copies, where it is to be called again


class PeerError(Exception):
    """Why a model cannot be copied from another host."""


class CopyPausedError(Exception):
    """A copy that takes longer than one call may; `told` has its `progress`, and `so_far` for the next call."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told["progress"])
        self.told = told


def canonical(name: str) -> str:
    """Return the name by which Ollama lists a model: without what it adds by itself, with a tag, in small letters."""
    short = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"


def is_digest(wanted: str, found: str) -> bool:
    """Return whether a digest is the wanted one, as far as that is given."""
    return found.removeprefix("sha256:").startswith(wanted.removeprefix("sha256:"))


def copied(
    models: Callable[[], Mapping[str, str]], given: Mapping[str, Any], log: Callable[[str], None]
) -> tuple[str, list[str]]:
    """Return where the model was copied from, nothing if it was not, and why not from others.

    `models` says what the Ollama lists, `given` what the module was asked for. Raises CopyPausedError after
    `given["seconds"]`; with its `so_far` the next call goes on with the same host.
    """
    name, so_far = canonical(given["name"]), given["so_far"]
    refusals, seconds = list(so_far.get("not_copied", [])), so_far.get("seconds", 0.0)
    urls = [peer["url"].rstrip("/") for peer in given["peers"]]
    begin = urls.index(so_far["copying"]) if so_far else 0
    for peer in given["peers"][begin:]:
        url = peer["url"].rstrip("/")
        digest = {canonical(known): has for known, has in peer["models"].items()}.get(name, "")
        if not digest:
            continue
        began = time.monotonic()
        try:
            progress = _copy(given, url, digest)
            if not progress:
                _see(models(), given, url, digest)
        except PeerError as error:
            log(f"{name}: {error}")
            refusals.append(str(error))
        else:
            if not progress:
                return url, refusals
            now = {"copying": url, "not_copied": refusals, "seconds": seconds + time.monotonic() - began}
            raise CopyPausedError({"progress": f"{given['name']}: {progress}", "so_far": now})
    return "", refusals


def _copy(given: Mapping[str, Any], url: str, digest: str) -> str:
    """Copy the model from one host, in the name of the user whose Ollama it is; return how far one is that paused."""
    if not is_digest(given["digest"], digest):
        raise PeerError(f"{url} has {digest[:12]}, and ollama_models declares {given['digest']}")
    as_user: dict[str, Any] = {}
    if given["user"] and os.geteuid() == 0:
        user = pwd.getpwnam(given["user"])
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    arguments = [url, given["folder"], given["name"], digest.removeprefix("sha256:"), str(given["seconds"])]
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, given["copier"], *arguments],
        cwd=given["folder"],
        umask=0o027,
        capture_output=True,
        text=True,
        check=False,
        **as_user,
    )
    if ended.returncode == PAUSED:
        return how_far(**json.loads(ended.stdout), seconds=time.monotonic() - began)
    if ended.returncode:
        said = " ".join((ended.stdout + ended.stderr).strip().splitlines()[-3:])
        raise PeerError(f"Copying from {url} failed: {said or f'it ended with {ended.returncode}'}")
    return ""


def _see(listed: Mapping[str, str], given: Mapping[str, Any], url: str, digest: str) -> None:
    """Refuse a copy that Ollama does not list as what it was there."""
    name = canonical(given["name"])
    if not is_digest(digest, listed.get(name, "")):
        raise PeerError(f"What was copied from {url} is nothing that this Ollama takes for {name}")
