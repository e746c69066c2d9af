"""The HTTP/1.1 client that speaks to the engines."""

from collections.abc import Mapping

import msgspec


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole small reply. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class UpstreamReply:
    """A reply whose head is there and whose body is read piece by piece."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """Return the next bytes of the body as they came, b"" at its end; raises BackendError where it breaks off."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the connection back if the body was read to its end, otherwise close it at once."""
        raise NotImplementedError


class UpstreamClient:
    """One per event loop. Every failure is a BackendError with its kind."""

    async def get(self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 5.0) -> Reply:
        """Return the whole answer to a GET."""
        raise NotImplementedError

    async def post(
        self, url: str, body: bytes, *, headers: Mapping[str, str] | None = None, timeout: float = 5.0
    ) -> Reply:
        """Return the whole answer to a POST of JSON."""
        raise NotImplementedError

    async def open(self, url: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> UpstreamReply:
        """POST JSON and return once the head of the answer is there; the caller bounds the wait."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close every connection."""
        raise NotImplementedError
