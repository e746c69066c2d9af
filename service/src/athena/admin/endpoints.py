"""The HTTP operations of the registry."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from athena.admin import repository, service
from athena.admin.changes import Changes
from athena.admin.schemas import (
    INTEGER_MAX,
    AuditEntry,
    AuditQuery,
    Backend,
    BackendChange,
    BackendNew,
    ChangesQuery,
    FigureReport,
    ListQuery,
    ModelName,
    ModelRoute,
    Version,
)
from athena.auth.bearer import Identity, TokenFirst, require
from athena.auth.tokens import Scope
from athena.db import audit
from athena.db.models import LlmBackend
from athena.db.session import Database
from athena.problems import responses


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def _changes(request: Request) -> Changes:
    changes: Changes = request.app.state.changes
    return changes


async def _transaction(database: Annotated[Database, Depends(_database)]) -> AsyncIterator[AsyncSession]:
    async with database.transaction() as session:
        yield session


# "function": the transaction is committed before the answer is sent, so that an answer is never taken back.
Session = Annotated[AsyncSession, Depends(_transaction, scope="function")]
Registry = Annotated[Database, Depends(_database)]
Admin = Annotated[Identity, Depends(require(Scope.ADMIN))]
Service = Annotated[Identity, Depends(require(Scope.SERVICE))]
BackendId = Annotated[int, Path(ge=1, le=INTEGER_MAX)]

router = APIRouter(prefix="/api", tags=["registry"], route_class=TokenFirst, responses=responses(422, 503))
TOKEN = responses(401, 403)


@router.get("/llm-backends", responses=TOKEN)
async def list_backends(
    database: Registry,
    _: Service,
    query: Annotated[ListQuery, Query()],
    response: Response,
) -> list[Backend]:
    """Return every backend, and in the header X-Registry-Version the version that they are of."""
    async with database.transaction() as session:
        # One view of the table and of its version.
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        version = await audit.version(session)
        backends = await repository.all_backends(session, enabled_only=query.enabled_only)
    response.headers["X-Registry-Version"] = str(version)
    return [Backend.model_validate(backend) for backend in backends]


@router.post(
    "/llm-backends",
    status_code=201,
    response_model=Backend,
    responses=TOKEN | responses(400, 409),
)
async def create_backend(session: Session, caller: Admin, new: BackendNew, response: Response) -> LlmBackend:
    """Add a backend. A second one for a model needs `priority` (fail-over), `weight` (share) or `arm` (comparison)."""
    backend = await service.create(session, caller.name, new)
    response.headers["Location"] = f"/api/llm-backends/{backend.id}"
    return backend


@router.get("/llm-backends/changes")
async def changes(
    database: Registry,
    news: Annotated[Changes, Depends(_changes)],
    query: Annotated[ChangesQuery, Query()],
) -> Version:
    """Return the version of the registry as soon as it is above `after`, at the latest after `wait` seconds.

    With `database`, also as soon as it is of another one.
    """
    state = await _state(database)
    if query.wait > 0 and not state.news_for(query.after, query.database):
        await news.wait(query.after, query.wait)
        state = await _state(database)
    return Version(version=state.version, database=state.database)


@router.post("/llm-backends/figures", status_code=204, responses=TOKEN | responses(400))
async def report_figures(session: Session, _: Service, report: FigureReport) -> None:
    """Add what the backends did since the last report to their running figures."""
    await service.count_figures(session, report)


@router.get("/llm-backends/model/{model_name:path}", responses=responses(404))
async def find_route(session: Session, model_name: ModelName) -> ModelRoute:
    """Return the backend of a model, disabled or not; `route` has all of them. Needs no token."""
    await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    version = await audit.version(session)
    route = [Backend.model_validate(backend) for backend in await service.find_route(session, model_name)]
    return ModelRoute(**route[0].model_dump(), route=route, version=version)


@router.get("/llm-backends/{backend_id:int}", response_model=Backend, responses=TOKEN | responses(404))
async def get_backend(session: Session, _: Service, backend_id: BackendId) -> LlmBackend:
    """Return one backend."""
    return await service.find(session, backend_id)


@router.put("/llm-backends/{backend_id:int}", response_model=Backend, responses=TOKEN | responses(400, 404, 409))
async def update_backend(
    session: Session, caller: Admin, backend_id: BackendId, change: Annotated[BackendChange, Body()]
) -> LlmBackend:
    """Change the fields that are given, and leave the others as they are."""
    return await service.update(session, caller.name, backend_id, change)


@router.delete("/llm-backends/{backend_id:int}", status_code=204, responses=TOKEN | responses(404))
async def delete_backend(session: Session, caller: Admin, backend_id: BackendId) -> None:
    """Remove a backend; a model without any is served by the default Ollama."""
    await service.delete(session, caller.name, backend_id)


@router.post("/llm-backends/{backend_id:int}/toggle", response_model=Backend, responses=TOKEN | responses(404))
async def toggle_backend(session: Session, caller: Admin, backend_id: BackendId) -> LlmBackend:
    """Disable an enabled backend, enable a disabled one."""
    return await service.toggle(session, caller.name, backend_id)


@router.get("/audit-log", tags=["audit"], responses=TOKEN)
async def audit_log(session: Session, _: Admin, query: Annotated[AuditQuery, Query()]) -> list[AuditEntry]:
    """Return the latest changes of the configuration, newest first."""
    return [AuditEntry.model_validate(entry) for entry in await audit.latest(session, query.limit)]


async def _state(database: Database) -> audit.State:
    async with database.transaction() as session:
        return await audit.state(session)
