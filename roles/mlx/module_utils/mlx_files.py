"""The files of a model: which there are, what their sums are, and how they come to be ours."""

from __future__ import annotations  # a host's Python may be 3.9

import hashlib
import os
import platform
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

BLOCK = 1 << 20


def files_of(folder: Path) -> dict[str, Path]:
    """Return relative path → path of all files of a folder, in the order of their names' bytes, without hidden ones."""
    found: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent) / name
            if not name.startswith("."):
                found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items(), key=lambda entry: entry[0].encode()))


def sum_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sum_of_all(sums: Mapping[str, str]) -> str:
    """Return the sum of the lines that `sha256sum` prints for files by their relative paths."""
    return hashlib.sha256("".join(f"{value}  {name}\n" for name, value in sums.items()).encode()).hexdigest()


def identity_of(folder: Path) -> str:
    """Return what names the content of a folder without reading it: names, sizes and times."""
    digest = hashlib.sha256()
    for name, path in files_of(folder).items():
        seen = path.stat()
        digest.update(f"{name}\0{seen.st_size}\0{seen.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the manifest's entries for the files of a folder."""
    described: dict[str, dict[str, Any]] = {}
    for name, path in files_of(folder).items():
        seen = path.stat()
        described[name] = {"sha256": sum_of(path), "size": seen.st_size, "mtime_ns": seen.st_mtime_ns}
    return described


def damage(folder: Path, files: Mapping[str, Mapping[str, Any]], verify: bool) -> Iterator[str]:
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


def write(path: Path, content: str) -> None:
    """Write a file, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(content)
    part.replace(path)


def is_safe(name: str) -> bool:
    """Return whether the path of a file stays inside the folder that it is relative to, and is none that is hidden."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not any(part.startswith((".", "/")) for part in parts)


def give(folder: Path, user: str) -> None:
    """Have a folder be a user's, as far as we are root."""
    if user and os.geteuid() == 0:
        known = pwd.getpwnam(user)
        os.chown(folder, known.pw_uid, known.pw_gid)


def own(folder: Path) -> None:
    """Have a folder be ours with all that is in it, and readable for all: its server cannot change it."""
    os.chown(folder, os.geteuid(), os.getegid())
    folder.chmod(0o755)
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(parent) / name
            os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)
            path.chmod(0o755 if name in folders else 0o644)


def copy(source: Path, target: Path, is_ours: bool) -> None:
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
