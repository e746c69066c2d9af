"""The router's words: backends and routes, what a caller asks, what an engine answers.

A *dialect* is one of the wire formats that callers and engines speak: OpenAI's or Ollama's. `Request`, the events
and `Usage` are the neutral form between them; a request whose caller and engine speak the same dialect never takes it.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

import msgspec


class BackendType(StrEnum):
    """The engine type of a backend; `auto` is MLX at its endpoint with the default Ollama behind it."""

    OLLAMA = "ollama"
    MLX = "mlx"
    AUTO = "auto"
    OPENAI = "openai"


class Dialect(StrEnum):
    """A wire format of requests, replies and streams. Callers alone speak that of OpenAI's responses."""

    OPENAI = "openai"
    OLLAMA = "ollama"
    RESPONSES = "responses"


class Operation(StrEnum):
    """What is asked of a model: to continue a prompt, to answer a conversation, or for the vectors of texts."""

    GENERATE = "generate"
    CHAT = "chat"
    EMBED = "embed"


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend's row says its model can do, and how many tokens it takes; None: as it is found out."""

    json_schema: bool | None = None
    tools: bool | None = None
    images: bool | None = None
    embeddings: bool | None = None
    context_tokens: int | None = None


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the registry, as the Admin API gives it. `id` is None for the default Ollama, which has no row.

    `priority`: the lowest is tried first. `weight`: the share among equals of one priority; 0 takes no share but still
    stands in when the others fail. `timeout_seconds` bounds a whole reply, or the wait for a stream's first token.
    `max_concurrency` requests are given to the engine at once and `max_queue` wait for it; `first_token_seconds` and
    `stall_seconds` bound the wait for a stream's first token and for each next one. None: the router's own default.
    `capabilities` are believed before what is found out, but that of two contexts the smaller holds.
    `arm` is what it is compared as with the others of its priority; `share` the part of their callers that an arm has
    which grows by itself (CANARY).
    """

    model_name: str
    backend_type: BackendType
    endpoint_url: str
    id: int | None = None
    enabled: bool = True
    max_tokens: int = 2048
    temperature_default: float = 0.7
    timeout_seconds: int = 60
    priority: int = 0
    weight: int = 1
    max_concurrency: int | None = None
    max_queue: int | None = None
    first_token_seconds: int | None = None
    stall_seconds: int | None = None
    capabilities: Abilities | None = None
    arm: str | None = None
    share: float | None = None


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What the registry says of an API key that holds: whose it is and what its caller may do.

    `digest` is the key's SHA-256 in hexadecimal; `models` None: all; a limit of None: none.
    """

    id: int
    name: str
    prefix: str
    digest: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    expires_at: datetime | None = None


class Edition(msgspec.Struct, frozen=True):
    """Which registry it is: its version, and the database that it is a version of; "" where nobody told.

    A database that was restored may be at a version that was there before.
    """

    version: int = 0
    database: str = ""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The registry at one version: for each model name its backends, disabled ones included, in the registry's order.

    `complete` says that a model that is not here has no backend; otherwise it has merely not been looked up. `keys` are
    the API keys that hold, None where they were not asked for or could not be had. `database` is that of its edition.
    """

    version: int
    database: str = ""
    routes: Mapping[str, tuple[Backend, ...]]
    complete: bool
    keys: tuple[ApiKey, ...] | None = None

    @property
    def edition(self) -> Edition:
        """Which registry this is a picture of."""
        return Edition(self.version, self.database)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One engine to try: an `auto` backend yields two. `engine` is never `auto`."""

    backend: Backend
    engine: BackendType
    endpoint_url: str


class ToolCall(msgspec.Struct, kw_only=True):
    """A call of a tool by the model. `arguments` is JSON text, as OpenAI has it; Ollama has an object there."""

    name: str
    arguments: str
    id: str = ""


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One turn of a conversation. `images` are base64 without a prefix; `name` tells participants of one role apart."""

    role: str
    content: str = ""
    thinking: str = ""
    images: list[str] = []
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None
    tool_name: str | None = None
    name: str | None = None


class Sampling(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How to sample. None means that the caller did not say; the backend's defaults then hold where it has any."""

    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None


class Request(msgspec.Struct, kw_only=True):
    """What a caller asks, in neither dialect. `prompt` and `system` belong to generate, `messages` to chat,
    `inputs` to embed.

    `response_schema` is None for free text, {} for any JSON, otherwise a JSON schema. `tools` are OpenAI's tool
    objects, which Ollama took over. `include_usage` asks for token counts at the end of an OpenAI stream. `extra` holds
    fields of the caller's dialect that have no neutral word, nested ones by their place (`messages.0.audio`); an
    encoder passes on those that its own dialect knows. `echo` is what the reply repeats of the request.
    """

    operation: Operation
    model: str
    stream: bool = False
    prompt: str = ""
    system: str | None = None
    messages: list[Message] = []
    inputs: list[str] = []
    sampling: Sampling = msgspec.field(default_factory=Sampling)
    tools: list[dict[str, Any]] = []
    response_schema: dict[str, Any] | None = None
    include_usage: bool = False
    extra: dict[str, Any] = {}
    echo: dict[str, Any] = {}


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of tokens and, where the engine says so, the seconds spent reading the prompt and writing the reply."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    load_seconds: float | None = None
    prompt_seconds: float | None = None
    completion_seconds: float | None = None


FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class LikelyToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that a model might write, as text and in UTF-8, and the natural logarithm of how likely that was."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class WrittenToken(LikelyToken, frozen=True, kw_only=True):
    """A token that a model wrote, and the likeliest in its place; named and formed as OpenAI and Ollama do both."""

    top_logprobs: tuple[LikelyToken, ...] = ()


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """The next piece of a reply. A keep-alive or an empty role announcement is none. `vectors` are those of embed.

    `tokens` are those of the piece, where the caller asked how likely they were; they may come without a text.
    """

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    vectors: tuple[list[float], ...] = ()
    tokens: tuple[WrittenToken, ...] = ()


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """The proper end of a reply: the engine's end mark was seen. A reply that ends without one has failed."""

    reason: FinishReason
    usage: Usage


Event = Delta | Finish
