"""The body of a request to an engine, of which what is large is not copied."""

from typing import Final, TypeAlias

LARGE: Final = 64 * 1024  # bytes; to copy less costs less than to write it in pieces

# A body, or its beginning and the rest of a large one: the caller's own bytes as they came.
Body: TypeAlias = tuple[bytes, memoryview | None]
# What is written for a request, in one piece or in several.
Request: TypeAlias = bytes | tuple[bytes | memoryview, ...]


def with_beginning(body: bytes, end: int, beginning: bytes) -> Body:
    """Return a body with something else in place of its first `end` bytes."""
    if len(body) <= LARGE:
        return beginning + body[end:], None
    return beginning, memoryview(body)[end:]


def request_of(head: bytes, body: bytes, rest: memoryview | None) -> Request:
    """Return a request whose head ends before the length of its body: in one piece, unless the body is large."""
    if rest is not None:
        return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body) + len(rest), body), rest
    if len(body) <= LARGE:
        return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
    return b"%bcontent-length: %d\r\n\r\n" % (head, len(body)), body
