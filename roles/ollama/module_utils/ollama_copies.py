"""How a model of another host comes to an Ollama: which host's is taken, and why that of others is not."""

from __future__ import annotations  # a host's Python may be 3.9

import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any


class PeerError(Exception):
    """Why a model cannot be copied from another host."""


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

    `models` says what the Ollama lists, `given` what the module was asked for.
    """
    name, refusals = canonical(given["name"]), []
    for peer in given["peers"]:
        url = peer["url"].rstrip("/")
        digest = {canonical(known): has for known, has in peer["models"].items()}.get(name, "")
        if not digest:
            continue
        try:
            _copy(given, url, digest)
            _see(models(), given, url, digest)
        except PeerError as error:
            log(f"{name}: {error}")
            refusals.append(str(error))
        else:
            return url, refusals
    return "", refusals


def _copy(given: Mapping[str, Any], url: str, digest: str) -> None:
    """Copy the model from one host, in the name of the user whose Ollama it is."""
    if not is_digest(given["digest"], digest):
        raise PeerError(f"{url} has {digest[:12]}, and ollama_models declares {given['digest']}")
    as_user: dict[str, Any] = {}
    if given["user"] and os.geteuid() == 0:
        user = pwd.getpwnam(given["user"])
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    ended = subprocess.run(
        [sys.executable, given["copier"], url, given["folder"], given["name"], digest.removeprefix("sha256:")],
        cwd=given["folder"],
        umask=0o027,
        capture_output=True,
        text=True,
        check=False,
        **as_user,
    )
    if ended.returncode:
        said = " ".join((ended.stdout + ended.stderr).strip().splitlines()[-3:])
        raise PeerError(f"Copying from {url} failed: {said or f'it ended with {ended.returncode}'}")


def _see(listed: Mapping[str, str], given: Mapping[str, Any], url: str, digest: str) -> None:
    """Refuse a copy that Ollama does not list as what it was there."""
    name = canonical(given["name"])
    if not is_digest(digest, listed.get(name, "")):
        raise PeerError(f"What was copied from {url} is nothing that this Ollama takes for {name}")
