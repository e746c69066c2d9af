"""Connections to the database, for the processes that serve requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

# A database that hangs must turn into an error answer while the caller still waits for one.
CONNECT_SECONDS = 3
STATEMENT_SECONDS = 10
CONNECT_ARGUMENTS: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": STATEMENT_SECONDS * 1000,
}


def sqlalchemy_url(url: str) -> str:
    """Return `postgresql://…`, as every PostgreSQL tool takes it, in the form that makes SQLAlchemy use psycopg 3."""
    _, _, rest = url.partition("://")
    return f"postgresql+psycopg://{rest}"


class Database:
    """A pool of connections to one database. It connects when first used, and again whenever a connection was lost."""

    def __init__(self, url: str, *, application_name: str = "athena") -> None:
        self.url = url
        self.engine = create_async_engine(
            sqlalchemy_url(url),
            pool_pre_ping=True,
            pool_size=5,
            max_overflow=10,
            pool_timeout=5,
            connect_args={
                **CONNECT_ARGUMENTS,
                "application_name": application_name,
                "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout=5s",
            },
        )
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Yield a session in a transaction that is committed at the end, or rolled back by an exception."""
        async with self._sessions.begin() as session:
            yield session

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()
