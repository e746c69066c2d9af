"""Which targets can serve what a request needs, and what to say where none can."""

from collections.abc import Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from athena.errors import InvalidInputError
from athena.router.types import BackendType, Operation, Request

_BYTES_A_TOKEN = 4.0  # of English; a prompt in another language or in code has more tokens than this says


class Need(StrEnum):
    """Something that an engine either does or ignores without a word."""

    JSON_SCHEMA = "a JSON schema"
    TOOLS = "tools"
    IMAGES = "images"
    EMBEDDINGS = "embeddings"


class Source(IntEnum):
    """Who says what a target can do; the higher is believed."""

    ENGINE = 0  # what is true of every model of an engine
    SHOW = 1  # Ollama's /api/show
    MODELS = 2  # /v1/models
    PROBE = 3
    CONFIGURATION = 4


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What one source says: needs that it names, and tokens of context; what it says nothing about is not there."""

    can: Mapping[Need, bool] = {}
    context_tokens: int | None = None


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a request needs: `context_tokens` are about those of its prompt and the reply it asks for; 0: unknown."""

    features: frozenset[Need] = frozenset()
    context_tokens: int = 0


class NeedWithoutHomeError(InvalidInputError):
    """No backend of the model can do what the request needs; the message says which need has no home."""

    title = "Need without a home"
    code = "need_without_home"


# An engine that is known to ignore something never gets it, whatever the model. Of the others nobody knows.
ENGINES: Mapping[BackendType, Capabilities] = {
    BackendType.MLX: Capabilities(
        can={Need.JSON_SCHEMA: False, Need.TOOLS: True, Need.IMAGES: False, Need.EMBEDDINGS: False}
    ),
    BackendType.OLLAMA: Capabilities(can={Need.JSON_SCHEMA: True}),
    BackendType.OPENAI: Capabilities(),
}
_OLLAMA_WORDS = {Need.TOOLS: "tools", Need.IMAGES: "vision", Need.EMBEDDINGS: "embedding"}
_CONTEXT_OF_MODELS = ("max_model_len", "context_length", "max_context_length", "context_window")


def of_request(request: Request) -> Needs:
    """Return what a request needs."""
    features = {Need.EMBEDDINGS} if request.operation is Operation.EMBED else set()
    if request.response_schema is not None:
        features.add(Need.JSON_SCHEMA)
    if request.tools:
        features.add(Need.TOOLS)
    if any(message.images for message in request.messages) or request.extra.get("images"):
        features.add(Need.IMAGES)
    said = len(request.prompt) + len(request.system or "") + sum(len(message.content) for message in request.messages)
    asked = request.sampling.max_tokens or 0
    return Needs(features=frozenset(features), context_tokens=context_tokens(said, max(asked, 0)))


def context_tokens(size: int, reply_tokens: int) -> int:
    """Return about how many tokens of context a prompt of so many bytes and its reply take."""
    return round(size / _BYTES_A_TOKEN) + reply_tokens


def from_show(shown: Mapping[str, Any]) -> Capabilities:
    """Return what Ollama's answer to /api/show says; versions that list no capabilities say nothing of them."""
    listed = shown.get("capabilities")
    can = {need: word in listed for need, word in _OLLAMA_WORDS.items()} if isinstance(listed, list) else {}
    about = shown.get("model_info")
    lengths = (
        [value for key, value in about.items() if key.endswith(".context_length")] if isinstance(about, dict) else []
    )
    return Capabilities(can=can, context_tokens=_positive(lengths[0]) if lengths else None)


def from_models(entry: Mapping[str, Any]) -> Capabilities:
    """Return what a model's entry of /v1/models says: by its standard nothing, but many servers add the context."""
    return Capabilities(
        context_tokens=next((found for key in _CONTEXT_OF_MODELS if (found := _positive(entry.get(key)))), None)
    )


def merged(said: Mapping[Source, Capabilities]) -> Capabilities:
    """Return what holds of a target: of each thing what the most trusted source says that says anything of it."""
    can: dict[Need, bool] = {}
    context: int | None = None
    for source in sorted(said):
        can.update(said[source].can)
        if said[source].context_tokens is not None:
            context = said[source].context_tokens
    return Capabilities(can=can, context_tokens=context)


def lacking(needs: Needs, capabilities: Capabilities) -> tuple[str, ...]:
    """Return the needs that a target would not meet, in words. What nobody says it can do, it is not trusted with."""
    missing = [need.value for need in Need if need in needs.features and not capabilities.can.get(need, False)]
    if capabilities.context_tokens is not None and needs.context_tokens > capabilities.context_tokens:
        missing.append(f"a context of about {needs.context_tokens} tokens")
    return tuple(missing)


def able(needs: Needs, targets: Sequence[tuple[str, Capabilities]], *, model: str) -> list[int]:
    """Return the places of the targets that can serve a request, in order; each target has a name for people.

    Raises NeedWithoutHomeError where none can: with the needs that no target meets, or else with what each one lacks.
    """
    lacks = [lacking(needs, capabilities) for _, capabilities in targets]
    found = [place for place, lack in enumerate(lacks) if not lack]
    if found:
        return found
    homeless = [
        need for need in dict.fromkeys(one for lack in lacks for one in lack) if all(need in one for one in lacks)
    ]
    if homeless:
        raise NeedWithoutHomeError(f"No backend of model {model} can do {_list(homeless)}.")
    each = "; ".join(f"{name} lacks {_list(lack)}" for (name, _), lack in zip(targets, lacks, strict=True))
    raise NeedWithoutHomeError(f"No backend of model {model} can do all that is asked for at once: {each}.")


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
