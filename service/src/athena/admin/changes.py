"""News of changes: one connection that listens to the database, for every request that waits for a new version."""

import asyncio
from contextlib import aclosing

import psycopg
import structlog
from psycopg import sql

from athena.db.audit import CHANNEL
from athena.db.session import CONNECT_ARGUMENTS

RECONNECT_SECONDS = 1.0
# A connection that is silently dead would bring no news for ever; asking shows it.
ASK_EVERY_SECONDS = 30.0
log = structlog.get_logger()


class Changes:
    """Knows the latest version of the configuration as soon as any process commits a change."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._version = 0
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
        """Return when a version above `after` is known, or after so many seconds, or when the process is to end."""
        try:
            async with asyncio.timeout(seconds):
                while self._version <= after and not self._closed:
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
            cursor = await connection.execute("SELECT coalesce(max(id), 0) FROM config_audit_log")
            row = await cursor.fetchone()
            self._announce(int(row[0]) if row else 0)
            async with aclosing(connection.notifies(timeout=ASK_EVERY_SECONDS)) as notifications:
                async for notification in notifications:
                    self._announce(int(notification.payload))

    def _announce(self, version: int) -> None:
        if version == self._version:
            return
        self._version = version
        if not self._closed:
            self._news.set()
            self._news = asyncio.Event()
