"""What is shown of a backend."""

import msgspec


class BackendState(msgspec.Struct, frozen=True, kw_only=True):
    """What /health and /metrics show of a backend. `in_use` and `queued` are those of all workers.

    `id` is None for the default Ollama. `retry_in` is when the next trial is due, in seconds, where it is out.
    """

    id: int | None
    model: str
    engine: str
    endpoint: str
    state: str
    reason: str
    in_use: int
    limit: int
    queued: int
    max_queue: int
    service_seconds: float
    retry_in: float
    trips: int
