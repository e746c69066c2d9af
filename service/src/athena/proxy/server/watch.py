"""Time limits without timers: connections wait in the order in which they came, and one clock looks at the first."""

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from athena.proxy.server.connection import Connection
    from athena.proxy.server.reading import Reader


class Watch:
    """The connections in one phase, each with the time at which it entered it.

    Since all have the same time to leave it, the overdue ones are always the first: ten thousand that wait cost a look
    at one. Whoever enters a connection drops it when it leaves the phase; `since` is public because the hot path does
    both without a call.
    """

    __slots__ = ("seconds", "since")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.since: dict[Reader, float] = {}

    def enter(self, connection: "Reader", now: float) -> None:
        """Let the connection's time begin, again if it was waiting already."""
        self.since.pop(connection, None)
        self.since[connection] = now

    def drop(self, connection: "Reader") -> None:
        """The connection has left the phase, if it ever was in it."""
        self.since.pop(connection, None)

    def take_oldest(self, entered_before: float) -> "Connection | None":
        """Return the connection that has been here for the longest, and forget it; None if it came later than that."""
        for connection, entered in self.since.items():
            if entered > entered_before:
                break
            del self.since[connection]
            return cast("Connection", connection)
        return None

    def overdue(self, now: float) -> "list[Connection]":
        """Return the connections whose time is over, and forget them."""
        latest = now - self.seconds
        found = []
        for connection, entered in self.since.items():
            if entered > latest:
                break
            found.append(connection)
        for connection in found:
            del self.since[connection]
        return cast("list[Connection]", found)  # nothing else is a reader


class Watches:
    """The phases of a connection that have a limit."""

    __slots__ = ("body", "head", "idle", "linger", "unread")

    def __init__(self, *, head: float, body: float, idle: float, unread: float, linger: float) -> None:
        self.head = Watch(head)
        self.body = Watch(body)
        self.idle = Watch(idle)
        self.unread = Watch(unread)
        self.linger = Watch(linger)

    def forget(self, connection: "Connection") -> None:
        """The connection is gone."""
        self.head.since.pop(connection, None)
        self.body.since.pop(connection, None)
        self.idle.since.pop(connection, None)
        self.unread.since.pop(connection, None)
        self.linger.since.pop(connection, None)
