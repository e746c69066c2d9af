"""The rules of API keys. Every change is recorded in the transaction that the caller commits, without the key."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from athena.auth.api_keys import KeyScope, make_key
from athena.db import audit
from athena.db.models import ApiKeyRow
from athena.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from athena.admin.api_keys import ApiKeyChange

ENTITY = "api_key"
_RECORDED = ("name", "prefix", "scopes", "models", "requests_per_minute", "tokens_per_minute")
_MOMENTS = ("expires_at", "revoked_at")


async def keys(session: AsyncSession, *, valid_only: bool) -> list[ApiKeyRow]:
    """Return the keys, oldest first; with `valid_only` those that hold now."""
    query = select(ApiKeyRow).order_by(ApiKeyRow.id)
    if valid_only:
        query = query.where(
            ApiKeyRow.revoked_at.is_(None), or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > func.now())
        )
    return list(await session.scalars(query))


async def find(session: AsyncSession, key_id: int) -> ApiKeyRow:
    """Return a key; raises NotFoundError."""
    row = await session.get(ApiKeyRow, key_id)
    if row is None:
        raise NotFoundError(f"there is no API key {key_id}")
    return row


async def create(
    session: AsyncSession,
    actor: str,
    *,
    name: str,
    scopes: Iterable[KeyScope],
    models: Sequence[str] | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    expires_in_days: int | None,
) -> tuple[str, ApiKeyRow]:
    """Make a key; returns it, which nothing else knows from then on, and its row."""
    await audit.lock_configuration(session)
    made = make_key()
    row = ApiKeyRow(
        name=name,
        prefix=made.prefix,
        digest=made.digest,
        scopes=_scopes(scopes),
        models=_models(models),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        expires_at=datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days is not None else None,
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    await _record(session, actor, "create", row.id, before=None, after=_recorded(row))
    return made.key, row


async def change(session: AsyncSession, actor: str, key_id: int, wanted: "ApiKeyChange") -> ApiKeyRow:
    """Change what a key is bound to, as far as it is given; the key itself stays.

    Raises NotFoundError, and ConflictError for one that was revoked.
    """
    await audit.lock_configuration(session)
    row = await find(session, key_id)
    if row.revoked_at is not None:
        raise ConflictError(f"API key {key_id} was revoked, for good; make another one")
    before = _recorded(row)
    if "scopes" in wanted:
        row.scopes = _scopes(wanted["scopes"])
    if "models" in wanted:
        row.models = _models(wanted["models"])
    if "requests_per_minute" in wanted:
        row.requests_per_minute = wanted["requests_per_minute"]
    if "tokens_per_minute" in wanted:
        row.tokens_per_minute = wanted["tokens_per_minute"]
    after = _recorded(row)
    if after != before:
        await session.flush()
        await _record(session, actor, "update", row.id, before=before, after=after)
    return row


async def revoke(session: AsyncSession, actor: str, key_id: int) -> ApiKeyRow:
    """Have a key hold no more; one that was revoked before stays as it is. Raises NotFoundError."""
    await audit.lock_configuration(session)
    row = await find(session, key_id)
    if row.revoked_at is None:
        before = _recorded(row)
        row.revoked_at = datetime.now(UTC)
        await session.flush()
        await _record(session, actor, "revoke", row.id, before=before, after=_recorded(row))
    return row


async def note_use(session: AsyncSession, ids: Sequence[int]) -> None:
    """Take note that these keys were used just now."""
    # Rows are locked in the order of their ids, so that two reports cannot wait for each other.
    there = select(ApiKeyRow.id).where(ApiKeyRow.id.in_(ids)).order_by(ApiKeyRow.id).with_for_update()
    found = list(await session.scalars(there))
    if found:
        await session.execute(
            update(ApiKeyRow).where(ApiKeyRow.id.in_(found)).values(last_used_at=func.now()),
            execution_options={"synchronize_session": False},
        )


def _scopes(wanted: Iterable[KeyScope]) -> list[str]:
    """Return scopes as they are kept: each once, in their order."""
    named = set(wanted)
    return [scope.value for scope in KeyScope if scope in named]


def _models(wanted: Sequence[str] | None) -> list[str] | None:
    return sorted(set(wanted)) if wanted is not None else None


def _recorded(row: ApiKeyRow) -> dict[str, Any]:
    moments = {name: getattr(row, name) for name in _MOMENTS}
    return {
        **{name: getattr(row, name) for name in _RECORDED},
        **{name: moment.isoformat() if moment is not None else None for name, moment in moments.items()},
    }


async def _record(
    session: AsyncSession,
    actor: str,
    action: str,
    key_id: int,
    *,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    await audit.record(session, actor=actor, action=action, entity=ENTITY, entity_id=key_id, before=before, after=after)
