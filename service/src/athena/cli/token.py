"""`athena token`: a personal token for the Admin API."""

import getpass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from athena.cli.environment import database_errors, load
from athena.errors import InvalidInputError

if TYPE_CHECKING:
    from athena.settings import AdminSettings


class ScopeName(StrEnum):
    """How far a token reaches, as `athena.auth.tokens.Scope` has it."""

    ADMIN = "admin"
    SERVICE = "service"


def token(
    user: Annotated[str, typer.Option(help="Whose token it is: the name that the audit log will show.")],
    scope: Annotated[ScopeName, typer.Option(help="admin: everything; service: read the registry, report figures.")] = (
        ScopeName.ADMIN
    ),
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it holds.")] = 90,
) -> None:
    """Print a personal token, signed with JWT_SECRET; the user is added to DATABASE_URL where there is none."""
    import asyncio

    from athena.settings import AdminSettings

    settings = load(AdminSettings)
    with database_errors(settings.database_url.get_secret_value()):
        typer.echo(asyncio.run(_issue(settings, user=user, scope=scope, days=days)))


async def _issue(settings: "AdminSettings", *, user: str, scope: ScopeName, days: int) -> str:
    from athena.auth.tokens import Scope
    from athena.auth.users import issue_token
    from athena.db.session import Database

    if settings.jwt_secret is None:
        raise InvalidInputError("JWT_SECRET is not set: it signs the token, and the Admin API checks it with the same")
    database = Database(settings.database_url.get_secret_value(), application_name="athena-token")
    try:
        return await issue_token(
            database,
            settings.jwt_secret.get_secret_value(),
            user=user,
            scope=Scope(scope.value),
            days=days,
            actor=getpass.getuser(),
        )
    finally:
        await database.close()
