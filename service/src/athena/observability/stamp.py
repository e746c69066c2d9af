"""The time as log lines bear it."""

import time


class Stamp:
    """Tells the time in ISO 8601, UTC, to the millisecond; each second and millisecond is written out once."""

    def __init__(self) -> None:
        self._second = -1
        self._millisecond = -1
        self._start = ""
        self._text = b""

    def now(self) -> bytes:
        """Return the time."""
        millisecond = time.time_ns() // 1_000_000
        if millisecond != self._millisecond:
            self._text = self._write(millisecond)
            self._millisecond = millisecond
        return self._text

    def _write(self, millisecond: int) -> bytes:
        second, rest = divmod(millisecond, 1000)
        if second != self._second:
            self._start = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return b"%b.%03dZ" % (self._start.encode(), rest)
