"""API keys of the proxy's callers in a file: a name and a key's SHA-256 in each line, read again when it changes.

The file never holds a key itself.
"""

import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from athena.auth.api_keys import is_key_name, make_key
from athena.errors import AthenaError

CHECK_SECONDS = 1.0
"""How long a change of the file may stay unnoticed while requests come in."""

_LARGEST_FILE = 16 * 1024 * 1024
_DIGEST = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
log = structlog.get_logger()


class KeysFileError(AthenaError):
    """The file of API keys cannot be used; the message names the line at fault and what belongs there."""

    title = "API keys unusable"
    code = "api_keys_unusable"


class Key(NamedTuple):
    """What the file says of one key."""

    caller: str
    digest: bytes


class _State(NamedTuple):
    """What tells one state of the file from another."""

    inode: int
    modified: int
    size: int


def new_key(caller: str) -> tuple[str, str]:
    """Return a new key and its line for the file; raises KeysFileError where the name cannot stand there."""
    _check_name(caller)
    made = make_key()
    return made.key, f"{caller} {made.digest}"


def parse(text: str) -> tuple[Key, ...]:
    """Return the keys of a file's text, at least one; raises KeysFileError with the number of the line at fault.

    A name may have several keys, so that one can be replaced by another without a gap.
    """
    keys: list[Key] = []
    lines_of: dict[bytes, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            key = _parse_line(words)
        except KeysFileError as error:
            raise KeysFileError(f"line {number}: {error.detail}") from None
        if key.digest in lines_of:
            raise KeysFileError(
                f"line {number}: the key is that of line {lines_of[key.digest]}; each is for one caller"
            )
        lines_of[key.digest] = number
        keys.append(key)
    if not keys:
        raise KeysFileError("no key is in it; `athena key create NAME` prints a line for it")
    return tuple(keys)


def read(file: Path) -> tuple[Key, ...]:
    """Return the keys of a file; raises KeysFileError, which names the file."""
    try:
        return parse(_content(file).decode("utf-8-sig"))
    except OSError as error:
        fault = error.strerror or str(error)
    except UnicodeDecodeError:
        fault = "it is not text in UTF-8"
    except KeysFileError as error:
        fault = error.detail
    raise KeysFileError(f"the file of API keys {file} cannot be used: {fault}")


class KeysFile:
    """The keys of a file, looked at once a second at most, while requests come in.

    A new file that does not hold is logged, and the keys from before go on to hold; so it is when the file is gone.
    """

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file; raises KeysFileError."""
        self._file = file
        self._clock = clock
        self._look_again = clock() + CHECK_SECONDS
        # The state is that from before the content: what is written meanwhile is noticed next time.
        self._state = _state(file)
        self._keys = read(file)

    def keys(self) -> tuple[Key, ...]:
        """Return the keys: the same object until they change."""
        if self._clock() >= self._look_again:
            self._look()
        return self._keys

    def _look(self) -> None:
        """Read the file again if it is another than last time."""
        self._look_again = self._clock() + CHECK_SECONDS
        state = _state(self._file)
        if state == self._state:
            return
        self._state = state
        try:
            keys = read(self._file)
        except KeysFileError as error:
            log.warning("api_keys_not_loaded", error=error.detail, until_mended="the keys from before hold")
            return
        self._keys = keys
        log.info("api_keys_loaded", file=str(self._file), keys=len(keys), callers=len({key.caller for key in keys}))


def _parse_line(words: list[str]) -> Key:
    if len(words) != 2:  # noqa: PLR2004  # a name and a digest
        raise KeysFileError(f"it has {len(words)} words, not NAME SHA256HEX")
    name, digest = words
    _check_name(name)
    if not _DIGEST.fullmatch(digest):
        raise KeysFileError("the second word is not the SHA-256 of a key, 64 hexadecimal digits")
    return Key(name, bytes.fromhex(digest))


def _check_name(name: str) -> None:
    if not is_key_name(name):
        raise KeysFileError("a caller's name is 1 to 64 letters, digits and . _ @ - and starts with a letter or digit")


def _content(file: Path) -> bytes:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise KeysFileError("it is not a regular file")
    if status.st_size > _LARGEST_FILE:
        raise KeysFileError(f"it is larger than {_LARGEST_FILE} bytes")
    return file.read_bytes()


def _state(file: Path) -> _State | None:
    """Return the file's state; None while it cannot be looked at."""
    try:
        status = file.stat()
    except OSError:
        return None
    return _State(status.st_ino, status.st_mtime_ns, status.st_size)
