"""What the router needs to know of an engine. All of it is pure; the I/O is upstream's."""

from typing import ClassVar, Protocol

import msgspec

from athena.router.call import Call
from athena.router.errors import BackendError
from athena.router.types import Backend, BackendType, Dialect


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """A POST to an engine. With `passthrough` its reply goes to the caller as it is; otherwise the reply is a stream of
    the engine's dialect, whatever the caller wanted, to be read into events. `rest` follows `body` where that is only
    the beginning of the caller's own.
    """

    path: str
    body: bytes
    passthrough: bool
    rest: memoryview | None = None


class Engine(Protocol):
    """One engine type."""

    type: ClassVar[BackendType]
    dialect: ClassVar[Dialect]

    def render(self, call: Call, backend: Backend) -> Rendered:
        """Return what to send for this call, with the backend's defaults filled in where the caller said nothing.

        Raises BackendError(UNSUITABLE) where this engine would choke on the call or silently ignore a part of it, and
        RequestRejectedError where no engine could serve it.
        """
        ...

    def failure(self, status: int, body: bytes) -> BackendError | None:
        """Return what an answer other than 200 means, with the engine's own message in the detail; None for 200.

        `body` may be cut after 64 KiB.
        """
        ...
