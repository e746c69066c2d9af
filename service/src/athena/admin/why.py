"""Why requests go to a backend as they do: its place, its figures, and what a proxy has measured lately."""

from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from athena.admin import arms, place, rollout, service
from athena.admin.arms import ArmFigures
from athena.admin.endpoints import TOKEN, BackendId, Registry, Service
from athena.admin.schemas import Backend
from athena.auth.bearer import TokenFirst
from athena.problems import responses
from athena.router.errors import BackendError
from athena.router.judge import Why
from athena.router.upstream import UpstreamClient

ASK_SECONDS = 3.0


class Sized(BaseModel):
    """Where prompts of up to so many bytes go just now (null: of any length, or longer ones), and by which figures."""

    up_to_bytes: int | None
    order: list[str]
    because: str
    figures: list[str]


class BackendWhy(BaseModel):
    """Why requests go to a backend as they do. `policy` and `choices` are a proxy's, where it could be asked."""

    id: int
    model_name: str
    words: list[str]
    arms: Annotated[list[ArmFigures], Field(description="Of its priority, where there are several.")]
    policy: str | None
    choices: Annotated[list[Sized], Field(description="Of all engines of the model, by length of prompt.")]


class ProxyQuestion:
    """Asks a proxy how it chooses; `url` and `token` are those of `AdminSettings`. Its client is made at first use."""

    def __init__(self, url: str | None, token: str | None) -> None:
        self._url = url
        self._token = token
        self._client: UpstreamClient | None = None

    async def ask(self, model: str) -> tuple[Why | None, str]:
        """Return what a proxy says, or None; and in words where it comes from, or why there is nothing."""
        if self._url is None:
            return None, "No proxy was asked what it has measured: the Admin API's PROXY_URL names none."
        if self._client is None:
            self._client = UpstreamClient()
        headers = {"authorization": f"Bearer {self._token}"} if self._token is not None else {}
        url = f"{self._url}/athena/why?{urlencode({'model': model})}"
        try:
            reply = await self._client.get(url, headers=headers, within=ASK_SECONDS)
        except BackendError as error:
            return None, f"The proxy at {self._url} was asked what it has measured, in vain: {error.detail}."
        if reply.status != HTTPStatus.OK:
            return None, f"The proxy at {self._url} was asked what it has measured, and answered {reply.status}."
        try:
            said = msgspec.json.decode(reply.body, type=Why)
        except msgspec.MsgspecError:
            return None, f"What answers at {self._url} is no proxy of Athena's."
        return said, f"The proxy at {self._url} chooses just now as shown (policy {said.policy})."

    async def aclose(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.aclose()


def _question(request: Request) -> ProxyQuestion:
    question: ProxyQuestion = request.app.state.proxy_question
    return question


router = APIRouter(prefix="/api", tags=["registry"], route_class=TokenFirst, responses=responses(422, 503))


@router.get("/llm-backends/{backend_id:int}/why", responses=TOKEN | responses(404))
async def why(
    database: Registry, _: Service, backend_id: BackendId, question: Annotated[ProxyQuestion, Depends(_question)]
) -> BackendWhy:
    """Return in words when a backend is asked, what it has done, and how a proxy chooses for its model just now."""
    async with database.transaction() as session:  # over before a proxy is asked
        row = await service.find(session, backend_id)
        rows = await service.find_route(session, row.model_name)
        backend, route = Backend.model_validate(row), [Backend.model_validate(one) for one in rows]
        compared = arms.figures(rows, row.priority) if row.enabled else []
        canary = rollout.canary_of(row) if compared else None
    said, source = await question.ask(backend.model_name)
    return BackendWhy(
        id=backend.id,
        model_name=backend.model_name,
        words=[
            *place.place(backend, route, arms=bool(compared)),
            *([rollout.stage_in_words(canary)] if canary is not None else []),
            *(arms.in_words(one) for one in compared),
            place.figures(backend),
            source,
        ],
        arms=compared,
        policy=said.policy if said is not None else None,
        choices=[Sized(**msgspec.structs.asdict(one)) for one in said.choices] if said is not None else [],
    )
