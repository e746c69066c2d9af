"""The record of configuration changes. Its highest id is the configuration's version; every entry is announced."""

from typing import Any, NamedTuple

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from athena.db.models import ConfigAuditEntry

CHANNEL = "athena_registry"
# Any number will do, as long as every process uses the same one.
CONFIGURATION_LOCK = 934659786
# A table that was restored is another one for PostgreSQL, and so is a database that took the place of the one before.
STATE = """
SELECT coalesce(max(id), 0), concat_ws('.', (SELECT oid FROM pg_database WHERE datname = current_database()),
       CAST(CAST('config_audit_log' AS regclass) AS oid))
FROM config_audit_log
"""


class State(NamedTuple):
    """Which configuration it is: its version, and the database that this is a version of.

    The version alone does not tell: a database that was restored may be at one that was there before.
    """

    version: int
    database: str

    def news_for(self, after: int, database: str | None) -> bool:
        """Return whether whoever knows the version `after` has something to learn; None: whatever the database."""
        return self.version > after or database not in (None, self.database)


async def lock_configuration(session: AsyncSession) -> None:
    """Let one transaction at a time change the configuration, until this one ends.

    What a change is checked against then stays true until it is committed, and versions become visible in their order:
    nobody sees version 8 and misses a version 7 that is committed later.
    """
    await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CONFIGURATION_LOCK})


async def record(
    session: AsyncSession,
    *,
    actor: str,
    action: str,
    entity: str,
    entity_id: int,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    """Write down a change in its own transaction, and announce it to every process when that is committed.

    The caller holds `lock_configuration`.
    """
    entry = ConfigAuditEntry(actor=actor, action=action, entity=entity, entity_id=entity_id, before=before, after=after)
    session.add(entry)
    await session.flush()
    await session.execute(select(func.pg_notify(CHANNEL, str(entry.id))))


async def version(session: AsyncSession) -> int:
    """Return the version of the configuration; 0 while nothing was ever changed."""
    return await session.scalar(select(func.coalesce(func.max(ConfigAuditEntry.id), 0))) or 0


async def state(session: AsyncSession) -> State:
    """Return the version of the configuration, and of which database it is."""
    row = (await session.execute(text(STATE))).one()
    return State(version=row[0], database=row[1])


async def latest(session: AsyncSession, limit: int) -> list[ConfigAuditEntry]:
    """Return the last `limit` changes, newest first."""
    query = select(ConfigAuditEntry).order_by(ConfigAuditEntry.id.desc()).limit(limit)
    return list(await session.scalars(query))
