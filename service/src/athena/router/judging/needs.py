"""Which targets can serve what a request needs, and what to say where none can."""

from collections.abc import Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from athena.router.errors import NeedWithoutHomeError
from athena.router.types import Abilities, Operation, Request

_CHARACTERS_A_TOKEN = 4.0  # of English; a prompt in another language or in code has more tokens than this says
_AT_MOST = 2  # times as many characters a token may a prompt have


class Need(StrEnum):
    """Something that a model either does or ignores without a word."""

    JSON_SCHEMA = "a JSON schema"
    TOOLS = "tools"
    IMAGES = "images"
    EMBEDDINGS = "embeddings"


BITS = {need: 1 << place for place, need in enumerate(Need)}


class Source(IntEnum):
    """Who says what a target can do; the higher is believed."""

    SHOW = 1  # Ollama's /api/show
    MODELS = 2  # /v1/models
    PROBE = 3
    CONFIGURATION = 4


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What is said: needs that are named, and tokens of context; what nothing is said about is not there."""

    can: Mapping[Need, bool] = {}
    context_tokens: int | None = None


UNKNOWN = Capabilities()


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a request needs: `context_tokens` are about those of its prompt; 0: unknown.

    `wanted_tokens` of context are those that it asks for (`num_ctx`), 0 where it does not: it goes where they are, but
    is refused for what is in it alone, because many a client asks for more than it fills.
    """

    features: frozenset[Need] = frozenset()
    context_tokens: int = 0
    wanted_tokens: int = 0


_OLLAMA_WORDS = {Need.TOOLS: "tools", Need.IMAGES: "vision", Need.EMBEDDINGS: "embedding"}
_CONTEXT_OF_MODELS = ("max_model_len", "context_length", "max_context_length", "context_window")


def of_request(request: Request) -> Needs:
    """Return what a request needs."""
    features = {Need.EMBEDDINGS} if request.operation is Operation.EMBED else set()
    if request.response_schema is not None:
        features.add(Need.JSON_SCHEMA)
    if request.tools and request.extra.get("tool_choice") != "none":
        features.add(Need.TOOLS)
    if any(message.images for message in request.messages) or request.extra.get("images"):
        features.add(Need.IMAGES)
    said = len(request.prompt) + len(request.system or "") + sum(len(message.content) for message in request.messages)
    options = request.extra.get("options")
    wanted = _positive(options.get("num_ctx")) if isinstance(options, dict) else None
    return Needs(features=frozenset(features), context_tokens=context_tokens(said), wanted_tokens=wanted or 0)


def context_tokens(characters: int) -> int:
    """Return about how many tokens of context a prompt of so many characters takes.

    What the reply may take is not counted: a caller names a bound for it, not what it needs.
    """
    return round(characters / _CHARACTERS_A_TOKEN)


def may_exceed(size: int, context: float) -> bool:
    """Whether a prompt in a body of so many bytes may be too long for so many tokens."""
    return size > context * _CHARACTERS_A_TOKEN


def from_show(shown: Mapping[str, Any]) -> Capabilities:
    """Return what Ollama's answer to /api/show says; versions that list no capabilities say nothing of them."""
    words = shown.get("capabilities")
    can = {need: word in words for need, word in _OLLAMA_WORDS.items()} if isinstance(words, list) else {}
    if not can.get(Need.EMBEDDINGS, True):
        del can[Need.EMBEDDINGS]  # many a model that is not made for it gives vectors all the same
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


def from_configuration(said: Abilities | None) -> Capabilities:
    """Return what a backend's row says."""
    if said is None:
        return UNKNOWN
    words = {
        Need.JSON_SCHEMA: said.json_schema,
        Need.TOOLS: said.tools,
        Need.IMAGES: said.images,
        Need.EMBEDDINGS: said.embeddings,
    }
    can = {need: word for need, word in words.items() if word is not None}
    return Capabilities(can=can, context_tokens=said.context_tokens)


def merged(said: Mapping[Source, Capabilities]) -> Capabilities:
    """Return what holds of a target: of each need what the most trusted source says that says anything of it.

    A context is a limit, whoever says it: the smallest holds.
    """
    can: dict[Need, bool] = {}
    for source in sorted(said):
        can.update(said[source].can)
    contexts = [one.context_tokens for one in said.values() if one.context_tokens is not None]
    return Capabilities(can=can, context_tokens=min(contexts, default=None))


def masks(can: Mapping[Need, bool]) -> tuple[int, int]:
    """Return the bits of what is done, and of what is not."""
    return sum(BITS[need] for need, word in can.items() if word), sum(
        BITS[need] for need, word in can.items() if not word
    )


def lacking(needs: Needs, capabilities: Capabilities, *, lenient: bool = False) -> tuple[str, ...]:
    """Return the needs that a target is known not to meet, in words.

    How many tokens a prompt has is a guess: to be `lenient` is to believe the least that it may have.
    """
    missing = [need.value for need in Need if need in needs.features and not capabilities.can.get(need, True)]
    tokens = needs.context_tokens // _AT_MOST if lenient else max(needs.context_tokens, needs.wanted_tokens)
    if capabilities.context_tokens is not None and tokens > capabilities.context_tokens:
        missing.append(f"a context of about {needs.context_tokens if lenient else tokens} tokens")
    return tuple(missing)


def able(
    needs: Needs, targets: Sequence[tuple[str, Capabilities]], *, model: str, field: str | None = None
) -> list[int]:
    """Return the places of the targets that can serve a request, in order; each target has a name for people.

    Where a prompt may be too long for all, it is refused only if it is sure to be, and never for the context that it
    asks for beyond that. Raises NeedWithoutHomeError where none can: with the needs that no target meets, or else with
    what each one lacks.
    """
    filled = msgspec.structs.replace(needs, wanted_tokens=0)
    for met, lenient in ((needs, False), (filled, False), (filled, True)):
        lacks = [lacking(met, capabilities, lenient=lenient) for _, capabilities in targets]
        found = [place for place, lack in enumerate(lacks) if not lack]
        if found:
            return found
    homeless = [
        need for need in dict.fromkeys(one for lack in lacks for one in lack) if all(need in one for one in lacks)
    ]
    if homeless:
        raise NeedWithoutHomeError(f"No backend of model {model} can do {listed(homeless)}.", field=field)
    each = "; ".join(f"{name} lacks {listed(lack)}" for (name, _), lack in zip(targets, lacks, strict=True))
    raise NeedWithoutHomeError(
        f"No backend of model {model} can do all that is asked for at once: {each}.", field=field
    )


def listed(words: Sequence[str]) -> str:
    """Return words as a sentence has them: one, two and three."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
