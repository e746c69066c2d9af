"""Brings one call to an engine that answers it: the targets of its route in order, until one gives a first token."""

from collections.abc import AsyncIterator, Mapping
from random import Random

from athena.router.call import Call
from athena.router.engines.base import Engine
from athena.router.figures import Figures
from athena.router.snapshot import Configuration
from athena.router.types import BackendType, Event, Target, Usage
from athena.router.upstream import UpstreamClient


class OpenReply:
    """A reply that has begun: whoever holds it reads either `raw()` or `events()`, once, and calls `aclose()` at last.

    `passthrough` says which of the two. `content_type` is that of the raw bytes, as the engine gave it. `usage` is known
    once either has been read to its end, None where the engine did not count (the proxy's metrics read it).
    """

    target: Target
    passthrough: bool
    content_type: str
    usage: Usage | None

    def raw(self) -> AsyncIterator[bytes]:
        """Yield the engine's bytes as they are, the first ones included; raises StreamBrokenError if they break off."""
        raise NotImplementedError

    def events(self) -> AsyncIterator[Event]:
        """Yield the reply's events, a Finish last; raises StreamBrokenError if it breaks off before that."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """End the reply, cancelling the engine's work where it is not done; may be called at any time, repeatedly."""
        raise NotImplementedError


class Dispatcher:
    """Opens replies. One per event loop, with the upstream client that it is handed."""

    def __init__(
        self,
        *,
        configuration: Configuration,
        upstream: UpstreamClient,
        engines: Mapping[BackendType, Engine],
        figures: Figures,
        ollama_url: str,
        random: Random,
    ) -> None:
        raise NotImplementedError

    async def open(self, call: Call) -> OpenReply:
        """Return the first reply of the route that has shown its first token, or is whole if no stream is wanted.

        Raises RequestRejectedError where the request is at fault, NoBackendError where every engine of the route failed
        (`attempts` says how, `retry_after` when to come back).
        """
        raise NotImplementedError
