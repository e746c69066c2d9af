"""Whether the Admin API can do its work: is the database there, and does its schema fit this code?"""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from athena.admin.schemas import Health
from athena.db.session import Database

ANSWER_SECONDS = 3.0
HEALTHY = "healthy"
UNREACHABLE = Health(status="unhealthy", components={"database": "unreachable", "schema": "unknown"})


class SchemaCheck:
    """Compares the database's revision with those that this code knows."""

    def __init__(self, database: Database, *, head: str, known: frozenset[str]) -> None:
        self._database = database
        self._head = head
        self._known = known
        self._look: asyncio.Task[Health] | None = None

    async def health(self) -> Health:
        """Return whether all is well, what there is to say of database and schema, and its revision.

        Whoever asks meanwhile waits for the same look, and nobody longer than ANSWER_SECONDS: to give up a question
        to a database that is frozen takes the driver up to ten seconds more.
        """
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_at_the_database())
        done, _ = await asyncio.wait({self._look}, timeout=ANSWER_SECONDS)
        return done.pop().result() if done else UNREACHABLE

    async def _look_at_the_database(self) -> Health:
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._database.engine.connect() as connection:
                revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        except ProgrammingError:
            revision = None
        except (DBAPIError, PoolTimeoutError, TimeoutError, OSError):
            return UNREACHABLE
        well, schema = self._verdict(revision)
        components = {"database": HEALTHY, "schema": schema}
        return Health(status="healthy" if well else "unhealthy", components=components, schema_revision=revision)

    def _verdict(self, revision: str | None) -> tuple[bool, str]:
        if revision == self._head:
            return True, HEALTHY
        if revision is None:
            return False, f"empty: this code needs {self._head}; run `athena migrate`"
        if revision in self._known:
            return False, f"behind: at {revision}, this code needs {self._head}; run `athena migrate`"
        # While a newer release is rolled out, the processes of this one go on serving on the schema of that one.
        return True, f"ahead: at {revision}, this code was made for {self._head}"


def _check(request: Request) -> SchemaCheck:
    check: SchemaCheck = request.app.state.schema_check
    return check


router = APIRouter(tags=["health"])


@router.get("/health", responses={503: {"model": Health, "description": "The database or its schema is not ready"}})
async def tell_health(check: Annotated[SchemaCheck, Depends(_check)], response: Response) -> Health:
    """Say whether this process can serve: 503 while the database is out of reach or its schema is behind."""
    health = await check.health()
    response.status_code = 200 if health.status == HEALTHY else 503
    return health


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Say that this process is alive, whatever it depends on."""
    return {"status": "alive"}
