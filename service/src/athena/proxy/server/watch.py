"""Time limits without timers: connections wait in the order in which they came, and one clock looks at the first."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from athena.proxy.server.connection import Connection


class Watch:
    """The connections in one phase, each with the time at which it entered it.

    Since all have the same time to leave it, the overdue ones are always the first: ten thousand that wait cost a look
    at one. Whoever enters a connection drops it when it leaves the phase; `since` is public because the hot path does
    both without a call.
    """

    __slots__ = ("seconds", "since")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.since: dict[Connection, float] = {}

    def enter(self, connection: "Connection", now: float) -> None:
        """Let the connection's time begin, again if it was waiting already."""
        self.since.pop(connection, None)
        self.since[connection] = now

    def drop(self, connection: "Connection") -> None:
        """The connection has left the phase, if it ever was in it."""
        self.since.pop(connection, None)

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
        return found


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
