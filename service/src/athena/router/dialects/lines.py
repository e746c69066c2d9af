"""Splits a stream that comes in pieces of any size into lines."""

from athena.router.errors import BackendError, FailureKind

LINE_LIMIT = 8 * 1024 * 1024  # bytes; more than any event of an engine, images in tool calls included


class LineBuffer:
    """Holds the piece of a line that has come so far."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that these bytes complete, without their ends; raises BackendError where one has no end."""
        if self._rest:
            data = self._rest + data
        lines = data.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LINE_LIMIT:
            raise BackendError(FailureKind.MALFORMED, f"a line of more than {LINE_LIMIT} bytes")
        return lines

    def rest(self) -> bytes:
        """Return the line that has no end yet."""
        return self._rest


class Tail:
    """Keeps the last bytes of a stream, at least `size` of them once there are so many."""

    __slots__ = ("_bytes", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._bytes = b""

    def feed(self, data: bytes) -> None:
        """Add the next bytes."""
        self._bytes = data if len(data) >= self._size else self._bytes[-self._size :] + data

    def lines(self) -> list[bytes]:
        """Return the last lines, blank ones left out; the first may lack its beginning."""
        return [line for line in self._bytes.splitlines() if line.strip()]
