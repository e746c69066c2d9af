"""Connections to the database, for the processes that serve requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from psycopg import errors
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from athena.errors import UnavailableError

# A database that hangs must turn into an error answer while the caller still waits for one.
CONNECT_SECONDS = 3
STATEMENT_SECONDS = 10
# PostgreSQL ends a statement by itself; one that is frozen with its host does not.
TRANSACTION_SECONDS = 12
RETRY_SECONDS = 2
POOL_KEPT = 5
POOL_MOST = 15
CONNECT_ARGUMENTS: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": STATEMENT_SECONDS * 1000,
}
log = structlog.get_logger()


class DatabaseUnavailableError(UnavailableError):
    """The database cannot be reached, is starting or stopping, or takes too long."""

    title = "Database unavailable"
    code = "database_unavailable"


class SchemaMismatchError(UnavailableError):
    """The database answers but does not have the tables or columns that this code needs."""

    title = "Schema not ready"
    code = "schema_not_ready"


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
            pool_size=POOL_KEPT,
            max_overflow=POOL_MOST - POOL_KEPT,
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
        """Yield a session in a transaction that is committed at the end, or rolled back by an exception.

        Raises DatabaseUnavailableError where the database is to blame, and SchemaMismatchError where its schema is.
        """
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS) as deadline, self._sessions.begin() as session:
                yield session
        except (DBAPIError, PoolTimeoutError) as error:
            raise _translated(error) from error
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise _unavailable(f"no end within {TRANSACTION_SECONDS} s") from error

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def _translated(error: DBAPIError | PoolTimeoutError) -> Exception:
    """Return what an error of the database means to whoever made the request; our own mistakes stay what they are."""
    if isinstance(error, ProgrammingError) and isinstance(error.orig, errors.UndefinedTable | errors.UndefinedColumn):
        log.warning("schema_not_ready", error=str(error.orig))
        return SchemaMismatchError("the database's schema is not this release's; run `athena migrate`")
    if isinstance(error, OperationalError | InterfaceError | PoolTimeoutError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    ):
        return _unavailable(str(getattr(error, "orig", error)))
    return error


def _unavailable(reason: str) -> DatabaseUnavailableError:
    log.warning("database_unavailable", error=reason)
    return DatabaseUnavailableError("the database cannot be reached just now", retry_after=RETRY_SECONDS)
