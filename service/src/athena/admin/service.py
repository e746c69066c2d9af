"""The rules of the registry. Every change is recorded in the transaction that the caller commits."""

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from athena.admin import repository, rollout
from athena.admin.schemas import BackendChange, BackendNew, FigureReport
from athena.db import audit
from athena.db.models import LlmBackend
from athena.errors import ConflictError, NotFoundError

ENTITY = "llm_backend"
ROLLOUT = "rollout"  # who changes the share of a canary, in the audit log
CONFIGURATION = (
    "model_name",
    "backend_type",
    "endpoint_url",
    "enabled",
    "max_tokens",
    "temperature_default",
    "timeout_seconds",
    "description",
    "priority",
    "weight",
    "max_concurrency",
    "max_queue",
    "first_token_seconds",
    "stall_seconds",
    "capabilities",
    "arm",
)
PLACE_IN_A_ROUTE = {"priority", "weight", "arm"}


async def find(session: AsyncSession, backend_id: int) -> LlmBackend:
    """Return a backend; raises NotFoundError."""
    backend = await repository.backend(session, backend_id)
    if backend is None:
        raise NotFoundError(f"there is no backend {backend_id}")
    return backend


async def find_route(session: AsyncSession, model_name: str) -> list[LlmBackend]:
    """Return the backends of a model in their order, at least one; raises NotFoundError."""
    route = await repository.route(session, model_name)
    if not route:
        raise NotFoundError(f"the model {model_name} has no backend")
    return route


async def create(session: AsyncSession, actor: str, new: BackendNew) -> LlmBackend:
    """Add a backend; raises ConflictError where the model has one and no place in a route is named."""
    await audit.lock_configuration(session)
    others = await repository.route(session, new.model_name)
    _check_place(others, new.model_name, names_place=bool(new.model_fields_set & PLACE_IN_A_ROUTE))
    backend = LlmBackend(**new.model_dump())
    _check_not_twice(others, backend)
    rollout.changed(backend, {}, others, time.time())
    session.add(backend)
    await _written(session, backend)
    await _record(session, actor, "create", backend_id=backend.id, before=None, after=_configuration(backend))
    return backend


async def update(session: AsyncSession, actor: str, backend_id: int, change: BackendChange) -> LlmBackend:
    """Change the fields that are given; raises NotFoundError, and ConflictError as `create` does."""
    await audit.lock_configuration(session)
    backend = await find(session, backend_id)
    before = _configuration(backend)
    new_name = change.get("model_name", backend.model_name)
    others = [other for other in await repository.route(session, new_name) if other.id != backend_id]
    if new_name != backend.model_name:
        _check_place(others, new_name, names_place=bool(change.keys() & PLACE_IN_A_ROUTE))
    with session.no_autoflush:
        for name, value in change.items():
            setattr(backend, name, value)
        _check_not_twice(others, backend)
        rollout.changed(backend, before, others, time.time())
    after = _configuration(backend)
    if after != before:
        await _save(session, actor, "update", backend, before)
    return backend


async def toggle(session: AsyncSession, actor: str, backend_id: int) -> LlmBackend:
    """Disable an enabled backend, enable a disabled one; raises NotFoundError."""
    await audit.lock_configuration(session)
    backend = await find(session, backend_id)
    before = _configuration(backend)
    backend.enabled = not backend.enabled
    await _save(session, actor, "toggle", backend, before)
    return backend


async def delete(session: AsyncSession, actor: str, backend_id: int) -> None:
    """Remove a backend; raises NotFoundError."""
    await audit.lock_configuration(session)
    backend = await find(session, backend_id)
    await session.delete(backend)
    await _record(session, actor, "delete", backend_id=backend_id, before=_configuration(backend), after=None)


async def count_figures(session: AsyncSession, report: FigureReport) -> None:
    """Add a report to the running figures, unless it was counted before. Figures are no configuration: no record."""
    if not await repository.note_batch(session, report.batch_id):
        return
    sums: dict[int, dict[str, Any]] = {}
    for figure in report.figures:
        values = figure.model_dump()
        known = sums.setdefault(figure.backend_id, values)
        if known is not values:
            known.update({name: known[name] + value for name, value in values.items() if name != "backend_id"})
    models = await repository.models_with_arms(session, list(sums))
    if models:
        await audit.lock_configuration(session)
    await repository.add_figures(session, list(sums.values()))
    for model in models:
        await _count_arms(session, model, sums)


async def _count_arms(session: AsyncSession, model: str, figures: dict[int, dict[str, Any]]) -> None:
    """Count what was seen of a model's arms, and let its canary's share follow; nobody but the figures changes it."""
    route = await repository.route(session, model)
    shares = {backend.id: backend.share for backend in route}
    canary = rollout.count(route, figures, time.time())
    if canary is not None and canary.canary is not None:
        before, after = {"share": shares[canary.id]}, {"share": canary.share, "because": canary.canary["because"]}
        await session.flush()
        await _record(session, ROLLOUT, "share", backend_id=canary.id, before=before, after=after)


def _check_place(others: Sequence[LlmBackend], model_name: str, *, names_place: bool) -> None:
    if others and not names_place:
        raise ConflictError(
            f"the model {model_name} already has the backend {others[0].id}; change that one with PUT "
            f"/api/llm-backends/{others[0].id}, or name priority, weight or arm to give the model a route of several",
            field="model_name",
        )


def _check_not_twice(others: Sequence[LlmBackend], backend: LlmBackend) -> None:
    for other in others:
        if (other.endpoint_url, other.backend_type) == (backend.endpoint_url, backend.backend_type):
            raise ConflictError(
                f"the backend {other.id} already serves {other.model_name} by {other.backend_type} at "
                f"{other.endpoint_url}; change that one with PUT /api/llm-backends/{other.id}",
                field="endpoint_url",
            )


def _configuration(backend: LlmBackend) -> dict[str, Any]:
    return {name: getattr(backend, name) for name in CONFIGURATION}


async def _save(session: AsyncSession, actor: str, action: str, backend: LlmBackend, before: dict[str, Any]) -> None:
    backend.updated_at = func.now()
    await _written(session, backend)
    await _record(session, actor, action, backend_id=backend.id, before=before, after=_configuration(backend))


async def _written(session: AsyncSession, backend: LlmBackend) -> None:
    """Send a row to the database, and read back what that made of it."""
    await session.flush()
    await session.refresh(backend)


async def _record(
    session: AsyncSession,
    actor: str,
    action: str,
    *,
    backend_id: int,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    await audit.record(
        session, actor=actor, action=action, entity=ENTITY, entity_id=backend_id, before=before, after=after
    )
