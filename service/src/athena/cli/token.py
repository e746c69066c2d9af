"""`athena token`: a personal token for the Admin API."""

from enum import StrEnum
from typing import Annotated

import typer

from athena.cli.environment import load
from athena.errors import InvalidInputError


class Scope(StrEnum):
    """How far a token reaches: everything, or what services need of each other."""

    ADMIN = "admin"
    SERVICE = "service"


def token(
    user: Annotated[str, typer.Option(help="Whose token it is: the name that the audit log will show.")],
    scope: Annotated[Scope, typer.Option(help="admin, or service: reads the registry and reports figures.")] = (
        Scope.ADMIN
    ),
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it holds.")] = 90,
) -> None:
    """Print a token that JWT_SECRET signs. Nothing is stored: who holds the secret can make any token."""
    from athena.auth.tokens import issue
    from athena.settings import AdminSettings

    secret = load(AdminSettings).jwt_secret
    if secret is None:
        raise InvalidInputError("JWT_SECRET is not set: it signs the token, and the Admin API checks it with the same")
    typer.echo(issue(secret.get_secret_value(), user=user, scope=scope.value, days=days))
