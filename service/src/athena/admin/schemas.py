"""What goes in and out of the Admin API."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from typing_extensions import TypedDict

INTEGER_MAX = 2**31 - 1
BIG_INTEGER_MAX = 2**63 - 1

_PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
ENDPOINT_URL = rf"^https?://{_HOST}(?::{_PORT})?(?:/[!$-.0-9:;=@A-Z_a-z~/%]*)?$"
_ENDPOINT_URL = re.compile(ENDPOINT_URL.removeprefix("^").removesuffix("$"), re.ASCII)


def _endpoint_url(url: str) -> str:
    if _ENDPOINT_URL.fullmatch(url):
        return url.rstrip("/")
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("must not hold a user or a password; everybody who may read the registry would see them")
    raise ValueError("must be http:// or https://, a host, and if need be a port and a path: http://localhost:11434")


def _whole(number: Any) -> Any:
    """To JSON, 60.0 is a whole number as well."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _seconds(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


WHOLE = BeforeValidator(_whole)
ModelName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]+$",
        description="As callers say it; may hold : and /.",
        examples=["phi3:mini"],
    ),
]
BackendTypeName = Annotated[
    Literal["ollama", "mlx", "auto", "openai"],
    Field(description="The engine's kind. auto: MLX at the endpoint, and the default Ollama where that fails."),
]
EndpointUrl = Annotated[
    str,
    Field(max_length=500),
    AfterValidator(_endpoint_url),
    WithJsonSchema(
        {"type": "string", "maxLength": 500, "pattern": ENDPOINT_URL, "examples": ["http://localhost:11434"]}
    ),
]
MaxTokens = Annotated[int, Field(ge=1, le=INTEGER_MAX, description="Tokens of a reply, unless the caller says."), WHOLE]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False, description="Unless the caller says.")]
TimeoutSeconds = Annotated[
    int, Field(ge=1, le=86400, description="For a whole reply, or a stream's first token."), WHOLE
]
Description = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")] | None
Priority = Annotated[
    int, Field(ge=0, le=INTEGER_MAX, description="The lowest of a model's backends is tried first."), WHOLE
]
Weight = Annotated[int, Field(ge=0, le=1000, description="The share among the backends of one priority."), WHOLE]
MaxConcurrency = (
    Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="Requests that the engine works on at once; null: what it does by default (Ollama 1, MLX 8, "
            "OpenAI 256).",
        ),
        WHOLE,
    ]
    | None
)
MaxQueue = (
    Annotated[
        int,
        Field(
            ge=0,
            le=100_000,
            description="Requests that may wait for the engine, 0: none; null: four for each at once, and 64.",
        ),
        WHOLE,
    ]
    | None
)
FirstTokenSeconds = (
    Annotated[
        int, Field(ge=1, le=86400, description="The longest wait for a stream's first token; null: the timeout."), WHOLE
    ]
    | None
)
StallSeconds = (
    Annotated[
        int,
        Field(ge=1, le=86400, description="The longest wait between two tokens of a stream; null: the timeout."),
        WHOLE,
    ]
    | None
)


class Abilities(TypedDict, total=False):
    """What a backend's model can do; of what is not named the router finds out what it can."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]  # pydantic reads it here

    json_schema: bool
    tools: bool
    images: bool
    embeddings: bool
    context_tokens: Annotated[
        int, Field(ge=1, le=INTEGER_MAX, description="Tokens that a prompt and its reply may have together."), WHOLE
    ]


Capabilities = (
    Annotated[
        Abilities,
        Field(description="What its model can do, believed before what is found out; null: as it is found out."),
    ]
    | None
)
Arm = (
    Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$",
            description="What it is compared as with the others of its priority, which are main unless they name one. "
            "A caller always comes to the same arm. canary: its share of the callers grows by itself.",
            examples=["canary"],
        ),
    ]
    | None
)
Moment = Annotated[datetime, PlainSerializer(_seconds, return_type=str), Field(examples=["2025-11-15T10:00:00Z"])]


class Body(BaseModel):
    """What a caller sends: nothing that is not known, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class BackendNew(Body):
    """A backend to add. Naming `priority`, `weight` or `arm` adds it to the route of a model that already has one."""

    model_name: ModelName
    backend_type: BackendTypeName
    endpoint_url: EndpointUrl
    enabled: bool = True
    max_tokens: MaxTokens = 2048
    temperature_default: Temperature = 0.7
    timeout_seconds: TimeoutSeconds = 60
    description: Description = None
    priority: Priority = 0
    weight: Weight = 1
    max_concurrency: MaxConcurrency = None
    max_queue: MaxQueue = None
    first_token_seconds: FirstTokenSeconds = None
    stall_seconds: StallSeconds = None
    capabilities: Capabilities = None
    arm: Arm = None


class BackendChange(TypedDict, total=False):
    """The fields of a backend to change; those that are not given stay as they are."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]  # pydantic reads it here

    model_name: ModelName
    backend_type: BackendTypeName
    endpoint_url: EndpointUrl
    enabled: bool
    max_tokens: MaxTokens
    temperature_default: Temperature
    timeout_seconds: TimeoutSeconds
    description: Description
    priority: Priority
    weight: Weight
    max_concurrency: MaxConcurrency
    max_queue: MaxQueue
    first_token_seconds: FirstTokenSeconds
    stall_seconds: StallSeconds
    capabilities: Capabilities
    arm: Arm


class Backend(BaseModel):
    """A backend with its running figures; the averages are null until there is a successful request.

    `share` is the part of the callers that a canary has, between 0 and 1; null where it is none.
    """

    model_config = ConfigDict(from_attributes=True)

    id: int
    model_name: str
    backend_type: BackendTypeName
    endpoint_url: str
    enabled: bool
    max_tokens: int
    temperature_default: float
    timeout_seconds: int
    description: str | None
    priority: int
    weight: int
    max_concurrency: int | None
    max_queue: int | None
    first_token_seconds: int | None
    stall_seconds: int | None
    capabilities: Abilities | None
    arm: str | None
    share: float | None
    created_at: Moment
    updated_at: Moment
    avg_tokens_per_sec: float | None
    avg_latency_ms: float | None
    total_requests: int
    total_errors: int


class ModelRoute(Backend):
    """The first backend of a model, and in `route` all of them in the order in which they are tried."""

    route: list[Backend]
    version: int


class Version(BaseModel):
    """The version of the registry, which grows with every change of the configuration, and the database that it is of.

    Another `database` than before is one that was restored, or put in the place of it: nothing of what was known holds.
    """

    version: int
    database: str


class ListQuery(BaseModel):
    """What the list can leave out."""

    model_config = ConfigDict(extra="forbid")

    enabled_only: bool = False


class ChangesQuery(BaseModel):
    """Which version of which database the caller knows, and how long to wait for another one, in seconds.

    Without `database` only a later version counts.
    """

    model_config = ConfigDict(extra="forbid")

    after: Annotated[int, Field(ge=0, le=BIG_INTEGER_MAX)]
    database: Annotated[str, Field(max_length=64)] | None = None
    wait: Annotated[float, Field(ge=0, le=55, allow_inf_nan=False)] = 25


class AuditQuery(BaseModel):
    """How many of the latest changes to return."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class Figure(Body):
    """What one backend did since the last report: counts, and sums in milliseconds, tokens and seconds.

    Of an arm also how many `times` to the first token were seen, and the sums of the logarithms of their seconds and of
    their squares.
    """

    backend_id: Annotated[int, Field(ge=1, le=INTEGER_MAX), WHOLE]
    requests: Annotated[int, Field(ge=0, le=10**9), WHOLE]
    errors: Annotated[int, Field(ge=0, le=10**9), WHOLE] = 0
    latency_ms_sum: Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)] = 0.0
    completion_tokens: Annotated[int, Field(ge=0, le=10**12), WHOLE] = 0
    completion_seconds: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] = 0.0
    times: Annotated[int, Field(ge=0, le=10**9), WHOLE] = 0
    logs: Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)] = 0.0
    squares: Annotated[float, Field(ge=0, le=1e13, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _errors_are_requests(self) -> Self:
        if self.errors > self.requests:
            raise ValueError("errors: there cannot be more of them than requests, which counts all")
        return self


class FigureReport(Body):
    """A batch of figures. Its id makes it count once, however often it is sent within a week."""

    batch_id: Annotated[UUID, Field(strict=False)]
    figures: Annotated[list[Figure], Field(max_length=10_000)]


class AuditEntry(BaseModel):
    """One change of the configuration: who, when, what, and what it was before and after."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    at: Moment
    actor: str
    action: str
    entity: str
    entity_id: int
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class Health(BaseModel):
    """Whether the process can do its work, and what each of its parts says."""

    status: Literal["healthy", "unhealthy"]
    components: dict[str, str]
    schema_revision: str | None = None
