"""The registry's rows, read and written."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from athena.db.models import FigureBatch, LlmBackend


async def all_backends(session: AsyncSession, *, enabled_only: bool) -> list[LlmBackend]:
    """Return every backend, oldest first."""
    query = select(LlmBackend).order_by(LlmBackend.id)
    if enabled_only:
        query = query.where(LlmBackend.enabled.is_(True))
    return list(await session.scalars(query))


async def backend(session: AsyncSession, backend_id: int) -> LlmBackend | None:
    """Return one backend, or None."""
    return await session.get(LlmBackend, backend_id)


async def route(session: AsyncSession, model_name: str) -> list[LlmBackend]:
    """Return the backends of a model in the order in which they are tried, disabled ones included."""
    query = select(LlmBackend).where(LlmBackend.model_name == model_name).order_by(LlmBackend.priority, LlmBackend.id)
    return list(await session.scalars(query))


async def note_batch(session: AsyncSession, batch_id: UUID) -> bool:
    """Remember a batch of figures and forget those older than a week; return whether it is new.

    A router may send a batch again whose answer it did not get, after an outage or once it is started again.
    """
    await session.execute(
        delete(FigureBatch).where(FigureBatch.received_at < func.now() - text("interval '7 days'")),
        execution_options={"synchronize_session": False},
    )
    noted = insert(FigureBatch).values(batch_id=batch_id).on_conflict_do_nothing().returning(FigureBatch.batch_id)
    return await session.scalar(noted) is not None


async def models_with_arms(session: AsyncSession, ids: Sequence[int]) -> list[str]:
    """Return the models of these backends that have arms, by name."""
    of_these = select(LlmBackend.model_name).where(LlmBackend.id.in_(ids))
    with_arms = select(LlmBackend.model_name).where(LlmBackend.arm.is_not(None), LlmBackend.model_name.in_(of_these))
    return list(await session.scalars(with_arms.distinct().order_by(LlmBackend.model_name)))


# Rows are locked in the order of their ids, so that two reports cannot wait for each other.
_LOCK_FOR_FIGURES = text("SELECT id FROM llm_backends WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE")

# The averages are those of all successful requests so far; latency weighs the old average by the old count.
_ADD_FIGURES = text("""
    UPDATE llm_backends SET
        total_requests = total_requests + :requests,
        total_errors = total_errors + :errors,
        avg_latency_ms = CASE WHEN CAST(:requests AS bigint) > CAST(:errors AS bigint) THEN
            (coalesce(avg_latency_ms, 0) * (total_requests - total_errors) + :latency_ms_sum)
            / (total_requests - total_errors + CAST(:requests AS bigint) - CAST(:errors AS bigint))
            ELSE avg_latency_ms END,
        completion_tokens = completion_tokens + :completion_tokens,
        completion_seconds = completion_seconds + :completion_seconds,
        avg_tokens_per_sec = coalesce(
            (completion_tokens + :completion_tokens) / nullif(completion_seconds + :completion_seconds, 0),
            avg_tokens_per_sec)
    WHERE id = :backend_id
""")


async def add_figures(session: AsyncSession, figures: Sequence[dict[str, Any]]) -> None:
    """Add the sums of each backend to its row; a backend that is not there any more is left out."""
    ids = [figure["backend_id"] for figure in figures]
    there = set(await session.scalars(_LOCK_FOR_FIGURES, {"ids": ids}))
    known = [figure for figure in figures if figure["backend_id"] in there]
    if known:
        await session.execute(_ADD_FIGURES, known)
