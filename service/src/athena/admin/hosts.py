"""What the agents of hosts report: the last report of each, for whoever wants to see them all in one place."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from athena.admin.endpoints import TOKEN, Admin, Service, Session
from athena.admin.schemas import Moment
from athena.auth.bearer import TokenFirst
from athena.db.models import HostReportRow
from athena.errors import NotFoundError
from athena.host_report import HOST_NAME, HostReport
from athena.problems import responses

HostName = Annotated[str, Path(pattern=HOST_NAME, description="As its agent calls it.")]


class Host(BaseModel):
    """A host by its last report. `received_at` is the database's clock: long ago means that nothing is known of it."""

    name: str
    received_at: Moment
    report: HostReport


router = APIRouter(prefix="/api", tags=["hosts"], route_class=TokenFirst, responses=responses(422, 503))


@router.get("/hosts", responses=TOKEN)
async def list_hosts(session: Session, _: Service) -> list[Host]:
    """Return every host that has an agent, by name, with its last report."""
    rows = await session.scalars(select(HostReportRow).order_by(HostReportRow.name))
    return [
        Host(name=row.name, received_at=row.received_at, report=HostReport.model_validate(row.report)) for row in rows
    ]


@router.put("/hosts/{name}", status_code=204, responses=TOKEN | responses(400))
async def report_host(session: Session, _: Service, name: HostName, report: HostReport) -> None:
    """Put a report in the place of the host's last one. It is no configuration: the audit log has nothing of it."""
    values = {"report": report.model_dump(mode="json"), "received_at": func.now()}
    await session.execute(
        insert(HostReportRow).values(name=name, **values).on_conflict_do_update(index_elements=["name"], set_=values)
    )


@router.delete("/hosts/{name}", status_code=204, responses=TOKEN | responses(404))
async def forget_host(session: Session, _: Admin, name: HostName) -> None:
    """Forget a host that is no more; it comes back if its agent reports again."""
    forget = delete(HostReportRow).where(HostReportRow.name == name).returning(HostReportRow.name)
    if await session.scalar(forget) is None:
        raise NotFoundError(f"no host {name} has reported")
