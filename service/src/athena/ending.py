"""How an HTTP server of the package ends."""

import msgspec


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How long a server takes to end after the signal, in seconds.

    For `wind_down_seconds` it goes on accepting and answering, and each answer says that it is the last on its
    connection: a caller whose request is on its way when an idle connection is closed could not know whether it was
    heard. Then what is still being answered has `grace_seconds`.
    """

    wind_down_seconds: float = 0.0
    grace_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.wind_down_seconds + self.grace_seconds
