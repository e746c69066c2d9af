"""The folder of an environment's state: whose it is, and how it goes away with all that is in it.

What is ours has a file in it that says so, and nothing else is written to or removed. A run that is killed while it
removes a folder leaves a sibling of it, hidden, which says so too until nothing else is in it.
"""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

MARKER = ".athena-environment"  # says that the folder is ours, and may be removed
LOCK = "lock"


def problem_of_name(given: str) -> str:
    """Return what is wrong with a name of such a folder, with the remedy; nothing if it means the same to everybody.

    Some of what uses it would take `~` as it stands, and a name without `/` from the folder that it happens to be in.
    """
    if Path(given).is_absolute():
        return ""
    whole = os.path.abspath(os.path.expanduser(given))  # noqa: PTH100, PTH111 that of Path fails where there is no such user
    return (
        f"athena_state_dir must be a whole path, without `~`; it is {given or 'empty'}. "
        f"Name it with all that belongs to it, as in -e athena_state_dir={whole if given else '/FOLDER'}."
    )


def problem_of_owner(folder: Path) -> str:
    """Return that a folder has files and is not ours, with the remedy; nothing where it is, or has none."""
    if not folder.is_dir() or (folder / MARKER).exists() or not any(folder.iterdir()):
        return ""
    return (
        f"{folder} holds files that are not of a deployment (there is no {MARKER} in it). "
        "Name another folder with -e athena_state_dir=FOLDER."
    )


def claim(folder: Path) -> None:
    """Make a folder that is ours, or an empty one ours."""
    # Others may pass through, as PostgreSQL must where it runs as a user of its own, but not look around.
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    (folder / MARKER).touch()


def remove(folder: Path) -> None:
    """Remove a folder of ours with all that is in it: for everybody else all of it goes in one moment."""
    finish_removal(folder)
    try:
        folder.rename(_left_over(folder))
    except OSError:  # it is a disk of its own, or in a folder of others: then its lock goes when all else has gone
        _empty(folder)
        with suppress(OSError):
            folder.rmdir()
    else:
        finish_removal(folder)


def finish_removal(folder: Path) -> None:
    """Remove what a run has left that was killed while it removed that folder, if one was."""
    left = _left_over(folder)
    try:
        marker = (left / MARKER).open()
    except (FileNotFoundError, NotADirectoryError):
        return
    with marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        if left.exists():  # nobody else has done it meanwhile
            _empty(left)
            if left.is_symlink():
                left.unlink()
            else:
                left.rmdir()


def _left_over(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.removed")


def _empty(folder: Path) -> None:
    """Remove what is in the folder; last what keeps others away, and what says that it is ours."""
    last = (LOCK, MARKER)
    for path in [*(one for one in folder.iterdir() if one.name not in last), *(folder / name for name in last)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
