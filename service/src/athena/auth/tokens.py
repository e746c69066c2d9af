"""Personal tokens: JSON Web Tokens, signed with the installation's secret (HS256). And the one of the hosts' agents."""

import hmac
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

import jwt

from athena.errors import UnauthorizedError

ALGORITHM = "HS256"
ISSUER = "athena"
AGENTS = b"athena: agents of hosts"


class Scope(StrEnum):
    """How far a token reaches: `service` reads the registry and reports figures; `admin` may do everything."""

    SERVICE = "service"
    ADMIN = "admin"

    def covers(self, other: "Scope") -> bool:
        """Return whether whoever has this scope may do what needs the other."""
        return self is Scope.ADMIN or self is other


class Claims(NamedTuple):
    """What a token says: whose it is and how far it reaches."""

    user: str
    scope: Scope


def agents_token(static_token: str) -> str:
    """Return the token of scope `service` that follows from the installation's static one, for the agents of hosts.

    It holds as long as that, and does not lead back to it.
    """
    return hmac.new(static_token.encode(), AGENTS, "sha256").hexdigest()


def issue(secret: str, *, user: str, scope: str = Scope.ADMIN, days: float = 90) -> str:
    """Return a token of this user for so many days. It holds only while the user is enabled in `admin_users`."""
    now = datetime.now(UTC)
    claims = {
        "iss": ISSUER,
        "sub": user,
        "scope": Scope(scope).value,
        "iat": now,
        "exp": now + timedelta(days=days),
    }
    return jwt.encode(claims, secret, algorithm=ALGORITHM)


def verify(secret: str, token: str) -> Claims:
    """Return what a token says; raises UnauthorizedError where it is not ours, was changed, or has expired."""
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=[ALGORITHM],
            issuer=ISSUER,
            options={"require": ["exp", "iat", "sub", "scope"]},
        )
        return Claims(user=claims["sub"], scope=Scope(claims["scope"]))
    except jwt.ExpiredSignatureError:
        raise UnauthorizedError("the token has expired; `athena token` makes a new one") from None
    except (jwt.InvalidTokenError, ValueError):
        raise UnauthorizedError("the token is not one of this installation") from None
