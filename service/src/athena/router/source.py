"""Where the router's configuration comes from."""

from typing import Protocol

from athena.router.types import Backend, Snapshot


class Source(Protocol):
    """Something that knows the registry. Every method raises SourceError where it is out of reach."""

    whole_table: bool

    async def load(self) -> Snapshot:
        """Return the whole registry at one version; only where `whole_table` is true."""
        ...

    async def look_up(self, model: str) -> tuple[Backend, ...]:
        """Return the backends of one model; empty if it has none."""
        ...

    async def changed(self, after: int, wait: float) -> int:
        """Return the registry's version as soon as it differs from `after`, at the latest after `wait` seconds."""
        ...
