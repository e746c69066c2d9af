"""Who is calling, by the API key of a request: one of the keys of a file, or of the registry."""

import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

from athena.errors import AthenaError, UnauthorizedError, UnavailableError
from athena.proxy.caller import Caller
from athena.proxy.keys import Key, KeysFile
from athena.router.snapshot import Configuration
from athena.router.types import ApiKey, Snapshot

_KEPT_HEADERS = 4096  # headers that were found good and are known again by their bytes
_BUCKET = 4  # leading bytes of a digest by which it is found
_ASK_AGAIN_SECONDS = 1.0  # while the registry's keys are not known

_Entry = tuple[bytes, Caller]


class KeyRing:
    """Knows by a request's headers who is calling. A key that is known costs a look-up of the header's bytes.

    `file` and `registry` are where keys come from, at least one of the two; a key that both have is the registry's.
    `caller_of` makes the caller of a key of the registry.
    """

    def __init__(
        self,
        file: KeysFile | None,
        registry: Configuration | None,
        *,
        caller_of: Callable[[ApiKey], Caller],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._registry = registry
        self._caller_of = caller_of
        self._clock = clock
        self._of_file: tuple[Key, ...] = ()
        self._of_registry: tuple[ApiKey, ...] | None = ()
        self._snapshot: Snapshot | None = None
        self._buckets: Mapping[bytes, list[_Entry]] = {}
        self._by_authorization: dict[bytes | None, Caller] = {}
        self._by_api_key: dict[bytes | None, Caller] = {}

    def caller(self, authorization: bytes | None, api_key: bytes | None) -> Caller | None:
        """Return who sends these values of `Authorization` and `x-api-key`; None: nobody we know."""
        if self._file is not None and self._file.keys() is not self._of_file:
            self._take()
        if self._registry is not None and self._registry.snapshot is not self._snapshot:
            self._follow(self._registry.snapshot)
        caller = (
            self._by_authorization.get(authorization)
            or self._by_api_key.get(api_key)
            or self._identify(authorization, api_key)
        )
        if caller is not None and caller.expires_at is not None and self._clock() >= caller.expires_at:
            return None
        return caller

    def refusal(self, authorization: bytes | None, api_key: bytes | None) -> AthenaError:
        """Return what to tell a caller whom `caller` does not know. It never repeats what they sent."""
        if authorization is None and api_key is None:
            return UnauthorizedError("An API key is needed: send it as `Authorization: Bearer KEY` or as `x-api-key`.")
        if api_key is None and _bearer(authorization) is None:
            return UnauthorizedError("`Authorization` must be `Bearer KEY`, with an API key of this proxy.")
        if self._of_registry is None:
            return UnavailableError(
                "This proxy has not been told yet which API keys there are; ask again.", retry_after=_ASK_AGAIN_SECONDS
            )
        return UnauthorizedError(
            "The API key is not one of this proxy, or holds no more; its operator gives out new ones."
        )

    def _identify(self, authorization: bytes | None, api_key: bytes | None) -> Caller | None:
        # Only what holds is kept: whoever guesses cannot fill the memory.
        key = _bearer(authorization)
        if key is not None and (caller := self._caller_by(key)) is not None:
            _keep(self._by_authorization, authorization, caller)
            return caller
        if api_key is not None and (caller := self._caller_by(api_key)) is not None:
            _keep(self._by_api_key, api_key, caller)
            return caller
        return None

    def _caller_by(self, key: bytes) -> Caller | None:
        digest = sha256(key).digest()
        found = None
        for candidate, caller in self._buckets.get(digest[:_BUCKET], ()):
            if hmac.compare_digest(candidate, digest):
                found = caller
        return found

    def _follow(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        if snapshot.keys != self._of_registry:
            self._of_registry = snapshot.keys
            self._take()

    def _take(self) -> None:
        """Take over what keys there are, and forget the headers by which others were known."""
        if self._file is not None:
            self._of_file = self._file.keys()
        buckets: dict[bytes, list[_Entry]] = {}
        for digest, caller in self._entries():
            buckets.setdefault(digest[:_BUCKET], []).append((digest, caller))
        self._buckets = buckets
        self._by_authorization = {}
        self._by_api_key = {}

    def _entries(self) -> Iterable[_Entry]:
        for key in self._of_file:
            yield key.digest, Caller(key.caller)
        for key_ in self._of_registry or ():
            yield bytes.fromhex(key_.digest), self._caller_of(key_)


def _bearer(authorization: bytes | None) -> bytes | None:
    """Return the key of `Bearer KEY`, None where it is something else; the scheme's case does not matter."""
    if authorization is None:
        return None
    scheme, _, key = authorization.partition(b" ")
    return key.strip() or None if scheme.lower() == b"bearer" else None


def _keep(known: dict[bytes | None, Caller], value: bytes | None, caller: Caller) -> None:
    if len(known) >= _KEPT_HEADERS:
        known.clear()
    known[value] = caller
