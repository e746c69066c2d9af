"""News of changes: one connection that listens to the database, for every request that waits for a new version."""

import asyncio
from contextlib import aclosing

import psycopg
import structlog
from psycopg import sql
from psycopg.rows import args_row

from athena.db.audit import CHANNEL, STATE, State
from athena.db.session import CONNECT_ARGUMENTS

RECONNECT_SECONDS = 1.0
# A connection that is silently dead would bring no news for ever; asking shows it.
ASK_EVERY_SECONDS = 30.0
log = structlog.get_logger()


class Changes:
    """Knows the latest version as soon as any process commits a change, or the database is another one."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._state = State(version=0, database="")
        self._news = asyncio.Event()
        self._closed = False

    async def listen(self) -> None:
        """Follow the database until cancelled; where it is away, try again every second."""
        connected = True
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._database_url, autocommit=True, application_name="athena-admin-changes", **CONNECT_ARGUMENTS
                ) as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    log.info("listening_to_database", channel=CHANNEL)
                    connected = True
                    await self._follow(connection)
            except psycopg.Error as error:
                if connected:
                    log.warning("database_does_not_notify", error=str(error).strip())
                connected = False
            await asyncio.sleep(RECONNECT_SECONDS)

    async def wait(self, after: int, seconds: float) -> None:
        """Return when a version above `after` is known, or another database is seen in the place of the one there was.

        Also after so many seconds, and when the process is to end.
        """
        database = self._state.database
        try:
            async with asyncio.timeout(seconds):
                while self._state.version <= after and self._state.database == database and not self._closed:
                    await self._news.wait()
        except TimeoutError:
            return

    def close(self) -> None:
        """Let every request go that waits, now and from now on."""
        self._closed = True
        self._news.set()

    async def _follow(self, connection: psycopg.AsyncConnection) -> None:
        while True:
            # First of all what was missed while nobody listened.
            cursor = connection.cursor(row_factory=args_row(State))
            await cursor.execute(STATE)
            self._announce(await cursor.fetchone() or self._state)
            async with aclosing(connection.notifies(timeout=ASK_EVERY_SECONDS)) as notifications:
                async for notification in notifications:
                    self._announce(self._state._replace(version=int(notification.payload)))

    def _announce(self, state: State) -> None:
        if state == self._state:
            return
        self._state = state
        if not self._closed:
            self._news.set()
            self._news = asyncio.Event()
