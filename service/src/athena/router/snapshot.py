"""The router's view of the registry: an immutable snapshot, refreshed in the background, that outlives the registry."""

from pathlib import Path

from athena.router.source import Source
from athena.router.types import Backend, Snapshot


class Configuration:
    """The last known configuration. An async context manager: while it is open it keeps itself up to date."""

    def __init__(self, source: Source, *, cache_seconds: float = 60.0, state_file: Path | None = None) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> "Configuration":
        raise NotImplementedError

    async def __aexit__(self, *_: object) -> None:
        raise NotImplementedError

    @property
    def snapshot(self) -> Snapshot:
        """The last known configuration; never waits."""
        raise NotImplementedError

    @property
    def reachable(self) -> bool:
        """Whether the last contact with the source succeeded; false before the first."""
        raise NotImplementedError

    async def route(self, model: str) -> tuple[Backend, ...]:
        """Return the backends of a model in the registry's order, disabled ones included; empty if it has none.

        Waits at most about 2 s, and only for a model that is not known yet.
        """
        raise NotImplementedError
