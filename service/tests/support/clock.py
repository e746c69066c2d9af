"""Time for what is handed a clock."""


class Clock:
    """A clock that stands still unless a test sets `now`, in seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now
