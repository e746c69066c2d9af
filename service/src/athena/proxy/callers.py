"""Who calls, and how urgent it is."""

import hmac
from typing import Final

from athena.auth.api_keys import KeyScope
from athena.errors import ForbiddenError
from athena.proxy.caller import Caller
from athena.proxy.keyring import KeyRing
from athena.proxy.server.exchange import Exchange
from athena.proxy.used_keys import UsedKeys
from athena.router.errors import RequestRejectedError

PRIORITY_HEADER: Final = b"x-athena-priority"
_PRIORITIES: Final = {b"high": 0, b"normal": 1, b"low": 2}
_NORMAL: Final = 1


class Callers:
    """Tells the callers apart: by their API keys where those are asked for, otherwise by their addresses."""

    def __init__(self, keys: KeyRing | None, used: UsedKeys | None = None, *, token: str | None = None) -> None:
        """`used` takes note of the keys of the registry that are sent; `token` is the installation's own."""
        self._keys = keys
        self._used = used
        self._token = b"Bearer " + token.encode() if token is not None else None

    def identify(self, exchange: Exchange, scope: KeyScope) -> Caller:
        """Return the caller, whose key is for `scope`.

        Raises UnauthorizedError where a key is needed and none that holds was sent, ForbiddenError where it is not for
        this, and UnavailableError while it is not known which keys there are.
        """
        if self._keys is None:
            return Caller(exchange.peer)
        caller = self._known(self._keys, exchange)
        caller.check_scope(scope)
        return caller

    def administrator(self, exchange: Exchange) -> Caller:
        """Return the caller, who may change which models an engine has: by a key of the scope `admin`, or by the
        installation's token.

        Raises ForbiddenError where it may not, and for a key that does not hold what `identify` does.
        """
        if self.has_token(exchange):
            return Caller(exchange.peer)
        sent = exchange.header(b"authorization") or exchange.header(b"x-api-key")
        if self._keys is not None and sent is not None:
            caller = self._known(self._keys, exchange)
            if caller.administers:
                return caller
        raise ForbiddenError(
            f"{exchange.path} changes which models an engine has, which is an administrator's affair: it takes an API "
            "key of the scope admin, or the installation's token."
        )

    def has_token(self, exchange: Exchange) -> bool:
        """Whether the installation's token was sent."""
        sent = exchange.header(b"authorization")
        return self._token is not None and sent is not None and hmac.compare_digest(sent, self._token)

    def _known(self, keys: KeyRing, exchange: Exchange) -> Caller:
        authorization, api_key = exchange.header(b"authorization"), exchange.header(b"x-api-key")
        caller = keys.caller(authorization, api_key)
        if caller is None:
            raise keys.refusal(authorization, api_key)
        if self._used is not None and caller.key_id is not None:
            self._used.note(caller.key_id)
        return caller


def priority_of(exchange: Exchange) -> int:
    """Return 0 for high, 1 for normal, 2 for low; raises RequestRejectedError where the header says something else."""
    value = exchange.header(PRIORITY_HEADER)
    if value is None:
        return _NORMAL
    priority = _PRIORITIES.get(value.strip().lower())
    if priority is None:
        raise RequestRejectedError(
            "The header x-athena-priority must be high, normal or low.", field=PRIORITY_HEADER.decode()
        )
    return priority
