"""Who calls, and how urgent it is."""

from athena.auth.api_keys import KeyScope
from athena.proxy.caller import Caller
from athena.proxy.keyring import KeyRing
from athena.proxy.server.exchange import Exchange
from athena.proxy.used_keys import UsedKeys
from athena.router.errors import RequestRejectedError

PRIORITY_HEADER = b"x-athena-priority"
_PRIORITIES = {b"high": 0, b"normal": 1, b"low": 2}
_NORMAL = 1


class Callers:
    """Tells the callers apart: by their API keys where those are asked for, otherwise by their addresses."""

    def __init__(self, keys: KeyRing | None, used: UsedKeys | None = None) -> None:
        """`used` takes note of the keys of the registry that are sent."""
        self._keys = keys
        self._used = used

    def identify(self, exchange: Exchange, scope: KeyScope) -> Caller:
        """Return the caller, whose key is for `scope`.

        Raises UnauthorizedError where a key is needed and none that holds was sent, ForbiddenError where it is not for
        this, and UnavailableError while it is not known which keys there are.
        """
        if self._keys is None:
            return Caller(exchange.peer)
        authorization, api_key = exchange.header(b"authorization"), exchange.header(b"x-api-key")
        caller = self._keys.caller(authorization, api_key)
        if caller is None:
            raise self._keys.refusal(authorization, api_key)
        if self._used is not None and caller.key_id is not None:
            self._used.note(caller.key_id)
        caller.check_scope(scope)
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
