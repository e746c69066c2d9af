"""Which models the registry can serve, read from a snapshot."""

from athena.router.types import Snapshot


def is_served(snapshot: Snapshot, model: str) -> bool:
    """Return whether an enabled backend of the registry serves this model."""
    return any(backend.enabled for backend in snapshot.routes.get(model, ()))


def first_enabled(snapshot: Snapshot) -> str | None:
    """Return the model of the enabled backend that was registered first; None if there is no enabled one."""
    enabled = (
        (backend.id, model)
        for model, backends in snapshot.routes.items()
        for backend in backends
        if backend.enabled and backend.id is not None
    )
    return min(enabled, default=(None, None))[1]
