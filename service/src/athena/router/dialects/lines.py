"""Cuts a stream that comes in pieces of any size into lines."""

from athena.router.errors import BackendError, FailureKind

HELD_LINE = 1024 * 1024  # bytes
LINE_LIMIT = 8 * 1024 * 1024  # bytes; more than any event of an engine, images in tool calls included


def too_long() -> BackendError:
    """Return the error of a line, or of the lines of one event, that does not end."""
    return BackendError(FailureKind.MALFORMED, f"a line of more than {LINE_LIMIT} bytes")


def reported(message: str) -> BackendError:
    """Return the error that an engine tells of within its stream, under status 200."""
    own_words = "the engine reported an error"
    return BackendError(FailureKind.STATUS, f"{own_words}: {message}"[:500], own_words=own_words)


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
            raise too_long()
        return lines

    def rest(self) -> bytes:
        """Return the line that has no end yet."""
        return self._rest


class WholeLines:
    """Cuts pieces of any size so that each ends a line; a line beyond `HELD_LINE` comes in parts, to bound memory."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return the lines that these bytes complete, b"" if none."""
        if not self._held and data.endswith(b"\n"):
            return data
        data = self._held + data
        end = data.rfind(b"\n") + 1 if len(data) < HELD_LINE else len(data)
        self._held = data[end:]
        return data[:end]

    def rest(self) -> bytes:
        """Return the line that has no end."""
        return self._held


class LastLine:
    """Keeps the last line of a stream that is not blank, whole."""

    __slots__ = ("_complete", "_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._complete = True

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; return whether a line begins in them. Raises BackendError where one has no end."""
        text = data.rstrip(b"\r\n")
        if not text:
            self._complete = self._complete or data.endswith(b"\n")
            return False
        cut = text.rfind(b"\n")
        begins = cut >= 0 or self._complete
        if begins:
            text = text[cut + 1 :] if cut >= 0 else text
            self._pieces = [text]
            self._size = len(text)
        else:
            self._pieces.append(text)
            self._size += len(text)
            if self._size > LINE_LIMIT:
                raise too_long()
        self._complete = data.endswith(b"\n")
        return begins

    def line(self) -> bytes:
        """Return the line as far as it has come."""
        return b"".join(self._pieces)


class Tail:
    """Keeps the last `size` bytes of a stream, and for a while some more: most chunks are then not copied."""

    __slots__ = ("_held", "_pieces", "_size", "_trimmed")

    def __init__(self, size: int) -> None:
        self._size = size
        self._pieces: list[bytes] = []
        self._held = 0
        self._trimmed = False

    def feed(self, data: bytes) -> None:
        """Add the next bytes."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held > 4 * self._size:
            kept = b"".join(self._pieces)[-self._size :]
            self._pieces = [kept]
            self._held = len(kept)
            self._trimmed = True

    def lines(self) -> list[bytes]:
        """Return the last lines that are there from their beginning; the very last may lack its end."""
        lines = b"".join(self._pieces).split(b"\n")
        return lines[1:] if self._trimmed else lines
