"""Which host has read the beginning of a prompt before, so that it need not read it again."""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

REMEMBERED = 8192
"""Digests in the table; the least recently used goes first."""
_SIZES = tuple(int(512 * 2 ** (step / 2)) for step in range(20))  # 512 bytes to 362 KiB, a half more each


def digests(body: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return digests of a body's beginnings, each with its length, the longest last.

    A conversation that goes on sends the same bytes again and more behind them, so that its earlier beginnings match.
    """
    found = []
    running, done = blake2b(digest_size=16), 0
    for size in _SIZES:
        if size > len(body):
            break
        running.update(body[done:size])
        done = size
        found.append((size, running.digest()))
    return tuple(found)


class Prefixes:
    """Where each beginning was served last. Bounded; knows no text, only digests.

    An engine keeps the last prompts that it read: what it has served since pushes a prefix out.
    """

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._table: OrderedDict[bytes, tuple[str, int]] = OrderedDict()
        self._served: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._table)

    def remember(self, host: str, found: Sequence[tuple[int, bytes]]) -> None:
        """Take note that a host serves a prompt."""
        turn = self._served[host] = self._served.get(host, 0) + 1
        for _, digest in found:
            self._table[digest] = (host, turn)
            self._table.move_to_end(digest)
        while len(self._table) > self._limit:
            self._table.popitem(last=False)

    def warm_bytes(self, host: str, found: Sequence[tuple[int, bytes]], *, kept: int) -> int:
        """Return how many bytes of a prompt's beginning a host has, if it keeps the last `kept` prompts it read."""
        for size, digest in reversed(found):
            known = self._table.get(digest)
            if known is not None and known[0] == host and self._served[host] - known[1] < kept:
                return size
        return 0
