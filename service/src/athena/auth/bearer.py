"""Who is calling: the bearer token of a request, and how far it reaches."""

import hmac
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from athena.auth.tokens import Scope, agents_token, verify
from athena.auth.users import enabled_user
from athena.db.session import Database
from athena.errors import ForbiddenError, UnauthorizedError

STATIC_TOKEN_NAME, AGENTS_NAME = "api-token", "agents"  # names for the audit log, not secrets

bearer = HTTPBearer(auto_error=False, description="ADMIN_API_TOKEN, or a personal token that `athena token` made.")


class Identity(NamedTuple):
    """Who is calling, as the audit log names them, and how far they may go."""

    name: str
    scope: Scope


class Authenticator:
    """Tells whose a token is: the installation's static one, its agents' one, or a personal one of an enabled user."""

    def __init__(self, database: Database, *, static_token: str | None, jwt_secret: str | None) -> None:
        self._database = database
        self._static_token = static_token.encode() if static_token else None
        self._agents_token = agents_token(static_token).encode() if static_token else None
        self._jwt_secret = jwt_secret

    async def identify(self, token: str) -> Identity:
        """Return whose token it is; raises UnauthorizedError where it does not hold."""
        if self._static_token is not None and hmac.compare_digest(token.encode(), self._static_token):
            return Identity(STATIC_TOKEN_NAME, Scope.ADMIN)
        if self._agents_token is not None and hmac.compare_digest(token.encode(), self._agents_token):
            return Identity(AGENTS_NAME, Scope.SERVICE)
        if self._jwt_secret is None:
            raise UnauthorizedError("the token is not one of this installation")
        claims = verify(self._jwt_secret, token)
        async with self._database.transaction() as session:
            user = await enabled_user(session, claims.user)
        if user is None:
            raise UnauthorizedError("the token's user does not exist or is disabled")
        # A user whose scope was narrowed holds no more with a token from before.
        scope = claims.scope if Scope(user.scope).covers(claims.scope) else Scope(user.scope)
        return Identity(user.name, scope)


class Required:
    """A FastAPI dependency that gives the caller's Identity, or answers 401 or 403.

    The application holds its Authenticator in `app.state.authenticator`.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(
        self, request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> Identity:
        """Return who is calling; of a request that `TokenFirst` let in, without a second look at the token."""
        admitted: Identity | None = getattr(request.state, "identity", None)
        return admitted if admitted is not None else await self._identify(request, credentials)

    async def admit(self, request: Request) -> None:
        """Look at the token before anything else of the request; raises UnauthorizedError or ForbiddenError."""
        request.state.identity = await self._identify(request, await bearer(request))

    async def _identify(self, request: Request, credentials: HTTPAuthorizationCredentials | None) -> Identity:
        if credentials is None:
            raise UnauthorizedError("a token is needed: Authorization: Bearer TOKEN")
        authenticator: Authenticator = request.app.state.authenticator
        caller = await authenticator.identify(credentials.credentials)
        if not caller.scope.covers(self._scope):
            raise ForbiddenError(f"this needs a token of the scope {self._scope}; this one has {caller.scope}")
        return caller


def require(scope: Scope) -> Required:
    """Return the dependency for operations that need this scope."""
    return Required(scope)


class TokenFirst(APIRoute):
    """A route that reads the body only of callers whose token holds; by itself FastAPI reads the body first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what serves a request of this route."""
        serve = super().get_route_handler()
        required = [needed.call for needed in self.dependant.dependencies if isinstance(needed.call, Required)]

        async def handler(request: Request) -> Response:
            for needed in required:
                await needed.admit(request)
            return await serve(request)

        return handler
