"""API keys of the proxy's callers: a file with a name and a key's SHA-256 in each line, read again when it changes.

The file never holds a key itself. A key is random and long, so that its plain hash cannot be guessed back.
"""

import hmac
import re
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import structlog

from athena.errors import AthenaError, UnauthorizedError

CHECK_SECONDS = 1.0
"""How long a change of the file may stay unnoticed while requests come in."""

_KEPT_HEADERS = 4096  # headers that were found good and are known again by their bytes
_LARGEST_FILE = 16 * 1024 * 1024
_BUCKET = 4  # leading bytes of a digest by which it is found
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
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
    key = f"sk-athena-{secrets.token_urlsafe(32)}"
    return key, f"{caller} {sha256(key.encode()).hexdigest()}"


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


class Keys:
    """Knows by a request's headers who is calling. A key that is known costs a look-up of the header's bytes.

    The file is looked at once a second at most, while requests come in. A new one that does not hold is logged, and
    the keys from before go on to hold; so it is when the file is gone.
    """

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file; raises KeysFileError."""
        self._file = file
        self._clock = clock
        self._look_again = clock() + CHECK_SECONDS
        # The state is that from before the content: what is written meanwhile is noticed next time.
        self._state = _state(file)
        self._take(read(file))

    def caller(self, authorization: bytes | None, api_key: bytes | None) -> str | None:
        """Return the name of who sends these values of `Authorization` and `x-api-key`; None: nobody we know."""
        if self._clock() >= self._look_again:
            self._look()
        return (
            self._by_authorization.get(authorization)
            or self._by_api_key.get(api_key)
            or self._identify(authorization, api_key)
        )

    def refusal(self, authorization: bytes | None, api_key: bytes | None) -> UnauthorizedError:
        """Return what to tell a caller whom `caller` does not know. It never repeats what they sent."""
        if authorization is None and api_key is None:
            return UnauthorizedError("An API key is needed: send it as `Authorization: Bearer KEY` or as `x-api-key`.")
        if api_key is None and _bearer(authorization) is None:
            return UnauthorizedError("`Authorization` must be `Bearer KEY`, with an API key of this proxy.")
        return UnauthorizedError("The API key is not one of this proxy; its operator gives out new ones.")

    def _identify(self, authorization: bytes | None, api_key: bytes | None) -> str | None:
        # Only what holds is kept: whoever guesses cannot fill the memory.
        key = _bearer(authorization)
        if key is not None and (name := self._name_of(key)) is not None:
            _keep(self._by_authorization, authorization, name)
            return name
        if api_key is not None and (name := self._name_of(api_key)) is not None:
            _keep(self._by_api_key, api_key, name)
            return name
        return None

    def _name_of(self, key: bytes) -> str | None:
        digest = sha256(key).digest()
        found = None
        for candidate in self._buckets.get(digest[:_BUCKET], ()):
            if hmac.compare_digest(candidate.digest, digest):
                found = candidate.caller
        return found

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
        self._take(keys)
        log.info("api_keys_loaded", file=str(self._file), keys=len(keys), callers=len({key.caller for key in keys}))

    def _take(self, keys: tuple[Key, ...]) -> None:
        buckets: dict[bytes, list[Key]] = {}
        for key in keys:
            buckets.setdefault(key.digest[:_BUCKET], []).append(key)
        self._buckets: Mapping[bytes, list[Key]] = buckets
        self._by_authorization: dict[bytes | None, str] = {}
        self._by_api_key: dict[bytes | None, str] = {}


def _parse_line(words: list[str]) -> Key:
    if len(words) != 2:  # noqa: PLR2004  # a name and a digest
        raise KeysFileError(f"it has {len(words)} words, not NAME SHA256HEX")
    name, digest = words
    _check_name(name)
    if not _DIGEST.fullmatch(digest):
        raise KeysFileError("the second word is not the SHA-256 of a key, 64 hexadecimal digits")
    return Key(name, bytes.fromhex(digest))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
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


def _bearer(authorization: bytes | None) -> bytes | None:
    """Return the key of `Bearer KEY`, None where it is something else; the scheme's case does not matter."""
    if authorization is None:
        return None
    scheme, _, key = authorization.partition(b" ")
    return key.strip() or None if scheme.lower() == b"bearer" else None


def _keep(known: dict[bytes | None, str], value: bytes | None, name: str) -> None:
    if len(known) >= _KEPT_HEADERS:
        known.clear()
    known[value] = name
