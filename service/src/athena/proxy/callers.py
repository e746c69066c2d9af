"""Who calls, and how urgent it is."""

from athena.proxy.keys import Keys
from athena.proxy.server.exchange import Exchange
from athena.router.errors import RequestRejectedError

PRIORITY_HEADER = b"x-athena-priority"
_PRIORITIES = {b"high": 0, b"normal": 1, b"low": 2}
_NORMAL = 1


class Callers:
    """Tells the callers apart: by their API keys where there are any, otherwise by their addresses."""

    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys

    def identify(self, exchange: Exchange) -> str:
        """Return the caller's name; raises UnauthorizedError where a key is needed and none that holds was sent."""
        if self._keys is None:
            return exchange.peer
        authorization, api_key = exchange.header(b"authorization"), exchange.header(b"x-api-key")
        caller = self._keys.caller(authorization, api_key)
        if caller is None:
            raise self._keys.refusal(authorization, api_key)
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
