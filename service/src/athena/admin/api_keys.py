"""The API keys of the proxy's callers, over HTTP. A key is shown in the answer that makes it, and never again."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from fastapi import Body as InBody
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from athena.admin import api_key_rules as rules
from athena.admin.endpoints import TOKEN, Admin, Registry, Service, Session
from athena.admin.schemas import INTEGER_MAX, WHOLE, Body, ModelName, Moment
from athena.auth.api_keys import KEY_NAME, USUAL_SCOPES, KeyScope
from athena.auth.bearer import TokenFirst
from athena.db import audit
from athena.db.models import ApiKeyRow
from athena.problems import responses

KeyId = Annotated[int, Path(ge=1, le=INTEGER_MAX)]
# Not strict: JSON has no enumerations, only strings.
Scopes = Annotated[
    list[Annotated[KeyScope, Field(strict=False)]],
    Field(min_length=1, max_length=len(KeyScope), description="What the key is for; default: all but `admin`."),
]
Models = (
    Annotated[
        list[ModelName],
        Field(min_length=1, max_length=1000, description="Models that it may use, as callers say them; null: all."),
    ]
    | None
)
RequestsPerMinute = (
    Annotated[int, Field(ge=1, le=10**6, description="Prompts and embeddings in 60 s; null: no limit."), WHOLE] | None
)
TokensPerMinute = (
    Annotated[
        int,
        Field(ge=1, le=10**9, description="Tokens in 60 s, of prompts and replies together; null: no limit."),
        WHOLE,
    ]
    | None
)
ExpiresInDays = (
    Annotated[int, Field(ge=1, le=3650, description="Days until it holds no more; null: it does not end."), WHOLE]
    | None
)


class ApiKeyNew(Body):
    """A key to make. `name` is whose it is; a name may have several, so that one can replace another without a gap."""

    name: Annotated[str, Field(pattern=KEY_NAME, max_length=64, examples=["alice"])]
    scopes: Scopes = Field(default_factory=lambda: list[KeyScope](USUAL_SCOPES))
    models: Models = None
    requests_per_minute: RequestsPerMinute = None
    tokens_per_minute: TokensPerMinute = None
    expires_in_days: ExpiresInDays = None


class ApiKeyChange(TypedDict, total=False):
    """What a key is bound to, to change; what is not given stays as it is. Null takes a limit away."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]  # pydantic reads it here

    scopes: Scopes
    models: Models
    requests_per_minute: RequestsPerMinute
    tokens_per_minute: TokensPerMinute


class ApiKey(BaseModel):
    """A key as people see it: by its first characters. `last_used_at` is up to a minute behind."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    prefix: str
    scopes: list[str]
    models: list[str] | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_at: Moment
    expires_at: Moment | None
    revoked_at: Moment | None
    last_used_at: Moment | None


class ApiKeyMade(ApiKey):
    """A key that was just made; `key` is itself, which is shown this once."""

    key: str


class ApiKeyDigest(BaseModel):
    """What a proxy needs to know of a key and what its caller may do. `digest` is its SHA-256 in hexadecimal."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    prefix: str
    digest: str
    scopes: list[str]
    models: list[str] | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    expires_at: Moment | None


class KeysQuery(BaseModel):
    """What the list can leave out."""

    model_config = ConfigDict(extra="forbid")

    valid_only: bool = False


class UseReport(Body):
    """The keys that a proxy was sent since its last report."""

    ids: Annotated[list[Annotated[int, Field(ge=1, le=INTEGER_MAX), WHOLE]], Field(max_length=10_000)]


router = APIRouter(prefix="/api", tags=["API keys"], route_class=TokenFirst, responses=responses(422, 503))


@router.get("/api-keys", response_model=list[ApiKey], responses=TOKEN)
async def list_keys(session: Session, _: Admin, query: Annotated[KeysQuery, Query()]) -> list[ApiKeyRow]:
    """Return every key, oldest first; `valid_only` leaves out those that were revoked or have expired."""
    return await rules.keys(session, valid_only=query.valid_only)


@router.post("/api-keys", status_code=201, responses=TOKEN | responses(400))
async def create_key(session: Session, caller: Admin, new: ApiKeyNew, response: Response) -> ApiKeyMade:
    """Make a key. `key` in this answer is the only time that it is shown."""
    made, row = await rules.create(session, caller.name, **new.model_dump())
    response.headers["Location"] = f"/api/api-keys/{row.id}"
    response.headers["Cache-Control"] = "no-store"
    return ApiKeyMade(key=made, **ApiKey.model_validate(row).model_dump(mode="python"))


@router.get("/api-keys/digests", responses=TOKEN)
async def list_digests(database: Registry, _: Service, response: Response) -> list[ApiKeyDigest]:
    """Return what a proxy needs of the keys that hold, and in X-Registry-Version the version that they are of."""
    async with database.transaction() as session:
        # One view of the table and of its version.
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        version = await audit.version(session)
        rows = await rules.keys(session, valid_only=True)
    response.headers["X-Registry-Version"] = str(version)
    return [ApiKeyDigest.model_validate(row) for row in rows]


@router.post("/api-keys/used", status_code=204, responses=TOKEN | responses(400))
async def report_use(session: Session, _: Service, report: UseReport) -> None:
    """Take note that these keys were used just now; ids of no key are left out. It is no configuration."""
    await rules.note_use(session, report.ids)


@router.get("/api-keys/{key_id:int}", response_model=ApiKey, responses=TOKEN | responses(404))
async def get_key(session: Session, _: Admin, key_id: KeyId) -> ApiKeyRow:
    """Return one key."""
    return await rules.find(session, key_id)


@router.put("/api-keys/{key_id:int}", response_model=ApiKey, responses=TOKEN | responses(400, 404, 409))
async def change_key(
    session: Session, caller: Admin, key_id: KeyId, change: Annotated[ApiKeyChange, InBody()]
) -> ApiKeyRow:
    """Change what a key is bound to, as far as it is given; proxies hold to it as soon as they are told."""
    return await rules.change(session, caller.name, key_id, change)


@router.post("/api-keys/{key_id:int}/revoke", response_model=ApiKey, responses=TOKEN | responses(404))
async def revoke_key(session: Session, caller: Admin, key_id: KeyId) -> ApiKeyRow:
    """Have a key hold no more, for good; proxies refuse it as soon as they are told. Twice is once."""
    return await rules.revoke(session, caller.name, key_id)
