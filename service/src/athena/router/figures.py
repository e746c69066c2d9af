"""Running figures of the backends: collected in memory, reported to the registry in batches."""


class Figures:
    """Collects the figures of each backend. `record` costs a few additions; the reporting runs in the background."""

    def record(
        self, backend_id: int, *, error: bool, seconds: float, completion_tokens: int, completion_seconds: float
    ) -> None:
        """Count one attempt; `seconds` until the whole reply."""
        raise NotImplementedError
