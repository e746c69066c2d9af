"""The record of configuration changes. Its highest id is the configuration's version; every entry is announced."""

from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from athena.db.models import ConfigAuditEntry

CHANNEL = "athena_registry"
# Any number will do, as long as every process uses the same one.
CONFIGURATION_LOCK = 934659786


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


async def latest(session: AsyncSession, limit: int) -> list[ConfigAuditEntry]:
    """Return the last `limit` changes, newest first."""
    query = select(ConfigAuditEntry).order_by(ConfigAuditEntry.id.desc()).limit(limit)
    return list(await session.scalars(query))
