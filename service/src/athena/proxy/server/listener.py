"""The server: it accepts, holds callers to their limits by one coarse clock, and ends gracefully."""

import asyncio
import resource
import socket
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import cast

import structlog

from athena.ending import Ending
from athena.outbox import Outbox
from athena.proxy.server.coalescing import Coalescer
from athena.proxy.server.connection import Application, Connection
from athena.proxy.server.errors import TooManyConnectionsError
from athena.proxy.server.limits import Limits, connections_for
from athena.proxy.server.wakefulness import Wakefulness
from athena.proxy.server.watch import Watches
from athena.proxy.server.workers import BACKLOG

_LINGER_SECONDS = 2.0  # for which what is still sent after a last answer is taken in
_SILENT_SECONDS, _PROBE_SECONDS, _PROBES = 20, 5, 3
_BREAK_OFF_SECONDS = 1.0  # for telling callers that their answers are broken off
log = structlog.get_logger()


class Server:
    """Serves an application on sockets that are bound already, in the running event loop.

    `refused` counts by code what the server itself refused or broke off.
    """

    def __init__(self, application: Application, limits: Limits) -> None:
        self.application = application
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.outbox = Outbox(self.loop)
        self.coalescer = Coalescer(self.loop)
        self.wakefulness = Wakefulness(self.loop)
        self.winding_down = False  # each answer is the last on its connection
        self.draining = False  # nothing new is answered
        self.held = 0  # bytes of the bodies that count for `all_body_bytes`
        self.working = 0  # requests that are being answered
        self.connections: set[Connection] = set()
        self.refused: Counter[str] = Counter()
        self.watches = Watches(
            head=limits.head_seconds,
            body=limits.body_seconds,
            idle=limits.idle_seconds,
            unread=limits.unread_seconds,
            linger=_LINGER_SECONDS,
        )
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = limits.connections if limits.connections is not None else connections_for(files)
        self._listeners: list[asyncio.AbstractServer] = []
        self._look: asyncio.TimerHandle | None = None
        self._at_once = asyncio.Event()
        self._emptied = asyncio.Event()

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Accept callers."""
        self.application.served_by(self)
        for listener in sockets:
            _notice_silence(listener, self.limits)
            self._listeners.append(
                await self.loop.create_server(
                    lambda: cast("asyncio.Protocol", Connection(self)), sock=listener, backlog=BACKLOG
                )
            )
        self._look = self.loop.call_later(self.limits.look_seconds, self._look_around)

    async def stop(self, ending: Ending) -> None:
        """Wind down, then accept nobody any more, let the answers that have begun end in time, break off the rest."""
        self.winding_down = True
        with suppress(TimeoutError):
            async with asyncio.timeout(ending.wind_down_seconds):
                await self._at_once.wait()
        self.draining = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.end_if_idle()
        try:
            async with asyncio.timeout(ending.grace_seconds):
                await self._until_empty()
        except TimeoutError:
            log.warning("requests_broken_off", connections=len(self.connections))
            await self._break_off()
        finally:
            if self._look is not None:
                self._look.cancel()

    async def _break_off(self) -> None:
        for connection in list(self.connections):
            connection.break_off()
        try:
            async with asyncio.timeout(_BREAK_OFF_SECONDS):
                await self._until_empty()
        except TimeoutError:
            self.end_now()
            await self._until_empty()

    def end_now(self) -> None:
        """Break off everything at once."""
        self._at_once.set()
        for connection in list(self.connections):
            connection.end_now()

    async def _until_empty(self) -> None:
        while self.connections:
            self._emptied.clear()
            await self._emptied.wait()

    def opened(self, connection: Connection) -> None:
        """Take in a new caller, or send it away when all places are taken."""
        self.connections.add(connection)
        if self.draining:
            connection.close()
        elif len(self.connections) > self._most and not self._make_room():
            connection.refuse(TooManyConnectionsError(f"{self._most} callers are connected.", retry_after=1))
        else:
            self.watches.idle.since[connection] = self.loop.time()

    def closed(self, connection: Connection) -> None:
        """Forget a caller."""
        self.connections.discard(connection)
        self.watches.forget(connection)
        if not self.connections:
            self._emptied.set()

    def _make_room(self) -> bool:
        """Close the connection that has been idle for the longest, if for long enough; say whether there was one."""
        connection = self.watches.idle.take_oldest(self.loop.time() - self.limits.way_after_seconds)
        if connection is not None:
            connection.close()
        return connection is not None

    def to_make_room_for(self, newcomer: Connection) -> Connection:
        """Return whose body, of those that are still being sent, is to be given up, since all together hold too much.

        It is the largest one of the address that holds most: so nobody who fills the room keeps others out of it.
        """
        held: Counter[str] = Counter()
        for connection in self.connections:
            held[connection.peer] += connection.held
        senders = [newcomer, *(one for one in self.connections if one is not newcomer and one.unfinished)]
        return max(senders, key=lambda sender: (held[sender.peer], sender.unfinished))

    def _look_around(self) -> None:
        now = self.loop.time()
        self._look = self.loop.call_later(self.limits.look_seconds, self._look_around)
        watches = self.watches
        for connection in watches.idle.overdue(now):
            connection.close()
        for connection in watches.head.overdue(now):
            connection.head_overdue()
        for connection in watches.body.overdue(now):
            connection.body_overdue()
        for connection in watches.unread.overdue(now):
            if connection.unread_overdue():
                self.refused["unread"] += 1
        for connection in watches.linger.overdue(now):
            connection.transport.abort()


def _notice_silence(listener: socket.socket, limits: Limits) -> None:
    """Let the kernel find out when a caller's machine has vanished without a word; accepted sockets inherit this.

    A caller that answers but does not read is the server's own affair, which is why the kernel waits for longer.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _SILENT_SECONDS),
        ("TCP_KEEPINTVL", _PROBE_SECONDS),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", int(2000 * limits.unread_seconds)),
    ):
        if option := getattr(socket, name, None):  # not every system has each
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
