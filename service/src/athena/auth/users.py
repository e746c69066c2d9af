"""Who may hold a personal token."""

import re

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from athena.auth.tokens import Scope, issue
from athena.db import audit
from athena.db.models import AdminUser
from athena.db.session import Database
from athena.errors import ConflictError, InvalidInputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,199}")


async def enabled_user(session: AsyncSession, name: str) -> AdminUser | None:
    """Return the user of this name unless there is none or it is disabled."""
    if not NAME.fullmatch(name):
        return None
    user: AdminUser | None = await session.scalar(
        select(AdminUser).where(AdminUser.name == name, AdminUser.enabled.is_(True))
    )
    return user


async def issue_token(database: Database, secret: str, *, user: str, scope: Scope, days: float, actor: str) -> str:
    """Return a token of this user, who is added where there is none; `actor` goes to the audit log.

    Raises InvalidInputError for a name that cannot be one, and ConflictError where the user is disabled or may not
    hold a token of that scope.
    """
    if not NAME.fullmatch(user):
        raise InvalidInputError(
            "a user's name is 1 to 200 letters, digits and . _ @ + -, and begins with a letter or digit", field="user"
        )
    async with database.transaction() as session:
        await audit.lock_configuration(session)
        row = await session.scalar(select(AdminUser).where(AdminUser.name == user))
        if row is None:
            row = AdminUser(name=user, scope=scope.value, enabled=True)
            session.add(row)
            await session.flush()
            await audit.record(
                session,
                actor=actor,
                action="create",
                entity="admin_user",
                entity_id=row.id,
                before=None,
                after={"name": user, "scope": scope.value, "enabled": True},
            )
        if not row.enabled:
            raise ConflictError(f"the user {user} is disabled; enable it in admin_users, or name another", field="user")
        if not Scope(row.scope).covers(scope):
            raise ConflictError(
                f"the user {user} has the scope {row.scope}; ask for that one, or name another user", field="scope"
            )
    return issue(secret, user=user, scope=scope, days=days)
