"""Copy a model of Ollama's from a host that has it, and go on where an earlier copy was cut off.

usage: copy_ollama.py URL FOLDER NAME DIGEST SECONDS

URL is where the host shares its models (share_ollama.py); FOLDER, where Ollama keeps them here; DIGEST, the model's, as
the host said it itself. A copy that takes longer than SECONDS ends once it has brought something, and the next call
goes on; but it does not end while it computes sums, which that one would have to begin anew. The manifest must have
that digest, and each blob the one that the manifest names it by. A blob gets its name when it is whole, and the
manifest comes last: until then Ollama knows nothing of the model.
exit status 3: it cannot be had there; what has come so far stays in FOLDER/.copied, unless it was not as it should be
exit status 4: it took longer; a line of JSON says how many bytes of the model are here, `has` of `total`, and how many
`came` by this call
"""

from __future__ import annotations  # a host's Python may be 3.9

import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import time
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from copy_model import BLOCK, SILENCE_SECONDS, UNREACHABLE, GoneError, copy

DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
MANIFEST_BYTES = 1 << 20
# What a name leaves out: `phi3` is registry.ollama.ai/library/phi3:latest.
REGISTRY, OWNER, TAG = "registry.ollama.ai", "library", "latest"
STAGING = ".copied"
PAUSED = 4


class NotTakenError(Exception):
    """What the host has is not what it should be."""


class PausedError(Exception):
    """It took longer than one call may."""


class Share:
    """How many bytes this call brought, and until when it goes on."""

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        self.came = 0

    def add(self, count: int) -> None:
        """Count bytes that came. Raises PausedError when the time is over."""
        self.came += count
        if time.monotonic() >= self.until:
            raise PausedError


def manifest_path(name: str) -> Path:
    """Return where, below FOLDER, Ollama keeps the manifest of a model. Raises NotTakenError if the name is none."""
    rest, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        rest, tag = name, TAG
    parts = rest.split("/")
    parts = [*(REGISTRY, OWNER)[: max(0, 3 - len(parts))], *parts, tag]
    if len(parts) != len(("registry", "owner", "model", "tag")) or not all(map(PART.fullmatch, parts)):
        raise NotTakenError(f"where Ollama keeps {name} is not known")
    return Path("manifests", *parts)


def manifest_of(url: str, digest: str) -> bytes:
    """Return a model's manifest. Raises what `http.client` raises, GoneError or NotTakenError."""
    where = urlsplit(f"{url}/manifests/{digest}")
    with closing(http.client.HTTPConnection(where.netloc, timeout=SILENCE_SECONDS)) as connection:
        connection.request("GET", where.path)
        answer = connection.getresponse()
        content = answer.read(MANIFEST_BYTES)
    if answer.status != HTTPStatus.OK:
        raise GoneError(f"{where.geturl()} answers with {answer.status}")
    if hashlib.sha256(content).hexdigest() != digest:
        raise NotTakenError(f"{where.geturl()} is another model than that host has")
    return content


def blobs_of(manifest: bytes) -> dict[str, int]:
    """Return the size of each blob of a model, by the digits of its digest. Raises NotTakenError if it names others."""
    try:
        known = json.loads(manifest)
        layers = {layer["digest"]: int(layer["size"]) for layer in (known["config"], *known["layers"])}
    except (ValueError, KeyError, TypeError) as error:
        raise NotTakenError(f"its manifest is not as Ollama's are: {error!r}") from None
    found = {digest: DIGEST.fullmatch(digest) for digest in layers}
    if strange := [digest for digest, match in found.items() if not match]:
        raise NotTakenError(f"its manifest names a blob {strange[0]}")
    return {match[1]: layers[digest] for digest, match in found.items() if match}


def sum_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_there(blob: Path, size: int) -> bool:
    """Return whether Ollama has a blob already; its own pulls go by that as well."""
    return blob.is_file() and blob.stat().st_size == size


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def told(blobs: dict[Path, int], staging: Path, share: Share) -> str:
    """Return how much of the model is here: of each blob, or of what has come of it."""
    places = [(blob, staging / blob.name, staging / f"{blob.name}.part") for blob in blobs]
    has = sum(next(filter(None, map(size_of, place)), 0) for place in places)
    return json.dumps({"has": has, "total": sum(blobs.values()), "came": share.came})


def have_blob(url: str, staging: Path, blob: Path, size: int, share: Share) -> None:
    """Have one blob, with the digest that is its name. Raises what `copy` raises, NotTakenError or PausedError."""
    come = staging / blob.name
    copy(f"{url}/blobs/{blob.name}", come, size, share.add)
    if f"sha256-{sum_of(come)}" != blob.name:
        come.unlink()
        raise NotTakenError(f"{url}/blobs/{blob.name} did not come as it is there, and was thrown away")
    come.rename(blob)


def have(url: str, folder: Path, name: str, digest: str, share: Share) -> None:
    """Have the model, whole or not at all. Raises what `manifest_of`, `blobs_of` and `have_blob` raise.

    A PausedError has the words for whoever calls again.
    """
    target, staging = folder / manifest_path(name), folder / STAGING
    staging.mkdir(exist_ok=True)
    with (staging / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotTakenError(f"another run copies: fuser {lock.name}") from None
        manifest = manifest_of(url, digest)
        blobs = {folder / "blobs" / f"sha256-{digits}": size for digits, size in blobs_of(manifest).items()}
        (folder / "blobs").mkdir(exist_ok=True)
        try:
            for blob, size in blobs.items():
                if not is_there(blob, size):
                    have_blob(url, staging, blob, size, share)
        except PausedError:
            raise PausedError(told(blobs, staging, share)) from None
        os.sync()
        part = staging / "manifest"
        part.write_bytes(manifest)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.rename(target)
        # When it starts, Ollama throws away blobs that no manifest names.
        if not all(is_there(blob, size) for blob, size in blobs.items()):
            target.unlink()
            raise NotTakenError("Ollama was started meanwhile, and threw away what had come")
        shutil.rmtree(staging)


def main(url: str, folder: str, name: str, digest: str, seconds: str) -> None:
    """Copy it, or say why not, or how far it is."""
    try:
        have(url, Path(folder), name, digest, Share(float(seconds)))
    except PausedError as pause:
        print(pause)
        sys.exit(PAUSED)
    except (NotTakenError, GoneError, OSError, http.client.HTTPException) as error:
        print(error if isinstance(error, NotTakenError) else f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(UNREACHABLE)


if __name__ == "__main__":
    main(*sys.argv[1:])
