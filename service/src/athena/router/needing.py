"""Keeps a call from the doors whose model is known to ignore a part of it, at next to no cost for all other calls."""

from math import inf

import msgspec

from athena.router.board import CAN, CONTEXT
from athena.router.call import Call
from athena.router.dialects.decoding import BAD_JSON
from athena.router.engines.rendering import unsuitable
from athena.router.judging import needs
from athena.router.judging.needs import BITS, Capabilities, Need, Needs
from athena.router.policy import Failure
from athena.router.routes import Door
from athena.router.types import Dialect, Operation

_CANNOT = len(Need)  # places by which the bits of what a model does not do are to the left of those of what it does
_READ_HERE = frozenset({Dialect.OPENAI, Dialect.OLLAMA})  # others are translated for every engine
_FIELDS = {
    Need.JSON_SCHEMA: {Dialect.OPENAI: "response_format", Dialect.OLLAMA: "format", Dialect.RESPONSES: "text.format"},
    Need.TOOLS: dict.fromkeys(Dialect, "tools"),
    Need.IMAGES: {Dialect.OPENAI: "messages", Dialect.OLLAMA: "images", Dialect.RESPONSES: "input"},
    Need.EMBEDDINGS: dict.fromkeys(Dialect, "input"),
}
# By what a body asks for one of these, or for a length of context. No text has these bytes, for its quotes are escaped.
_NAMES = {
    Dialect.OPENAI: (b'"tools"', b'"response_format"', b'"image_url"'),
    Dialect.OLLAMA: (b'"tools"', b'"format"', b'"images"', b'"num_ctx"'),
}
_NONE = Needs()
_NOTHING = msgspec.Raw(b"null")


class _Part(msgspec.Struct):
    type: str = "text"
    text: str = ""


class _Message(msgspec.Struct):
    content: msgspec.Raw = _NOTHING


class _OllamaMessage(_Message):
    images: list[msgspec.Raw] | None = None


class _Form(msgspec.Struct):
    type: str = "text"


class _Asked(msgspec.Struct):
    """What of a body a need can be seen by. No text is read for it."""

    tools: list[msgspec.Raw] | None = None
    prompt: msgspec.Raw = _NOTHING
    system: msgspec.Raw = _NOTHING


class _OpenAIAsked(_Asked):
    messages: list[_Message] | None = None
    response_format: _Form | None = None
    tool_choice: msgspec.Raw = _NOTHING


class _Options(msgspec.Struct):
    num_ctx: msgspec.Raw = _NOTHING


class _OllamaAsked(_Asked):
    options: msgspec.Raw = _NOTHING
    messages: list[_OllamaMessage] | None = None
    images: list[msgspec.Raw] | None = None
    format: msgspec.Raw = _NOTHING


_OPENAI = msgspec.json.Decoder(_OpenAIAsked)
_OLLAMA = msgspec.json.Decoder(_OllamaAsked)
_OPTIONS = msgspec.json.Decoder(_Options | None)
_WHOLE = msgspec.json.Decoder(int)
_CONTENT = msgspec.json.Decoder(str | list[_Part] | None)


def known(capabilities: Capabilities) -> tuple[float, float]:
    """Return the cells CAN and CONTEXT of what was found out of a model."""
    can, cannot = needs.masks(capabilities.can)
    return float(can | cannot << _CANNOT), float(capabilities.context_tokens or 0)


def capabilities_of(door: Door) -> Capabilities:
    """Return what is known of a door's model, of what its backend's row says and of what was found out."""
    cells = door.gate.cells
    found = int(cells[CAN])
    can = {need: True for need, bit in BITS.items() if found & bit}
    can |= {need: False for need, bit in BITS.items() if found >> _CANNOT & bit}
    said = {needs.Source.PROBE: Capabilities(can=can, context_tokens=int(cells[CONTEXT]) or None)}
    return needs.merged(said | {needs.Source.CONFIGURATION: door.said})


def described(door: Door) -> str:
    """Return what is known of a door's model, in words; empty where nothing is."""
    capabilities = capabilities_of(door)
    words = [
        f"{title}: {needs.listed(named)}"
        for title, wanted in (("can", True), ("cannot", False))
        if (named := [need.value for need in Need if capabilities.can.get(need) is wanted])
    ]
    if capabilities.context_tokens is not None:
        words.append(f"context {capabilities.context_tokens} tokens")
    return "; ".join(words)


def fitting(call: Call, doors: list[Door], failures: list[Failure]) -> list[Door]:
    """Return the doors whose model does what the call needs, as far as is known, in the same order.

    The others are noted as failures. Raises NeedWithoutHomeError where none is left.
    """
    lacked, context, widest = 0, 0.0, 0.0
    for door in doors:
        cells = door.gate.cells
        lacked |= (int(cells[CAN]) >> _CANNOT & ~door.can) | door.cannot
        tokens = cells[CONTEXT]
        if (said := door.said.context_tokens) and (not tokens or said < tokens):
            tokens = said
        if tokens and (not context or tokens < context):
            context = tokens
        widest = max(widest, tokens or inf)
    wide = widest > context > 0 and call.dialect is Dialect.OLLAMA  # which may ask for more than some have
    long = bool(context) and needs.may_exceed(len(call.body), context)
    if not (lacked or long or wide or (context and call.dialect not in _READ_HERE)):
        return doors
    asked = _needs(call, counted=long)
    if not asked.features and not asked.context_tokens and asked.wanted_tokens <= context:
        return doors
    targets = [(f"{door.target.engine} at {door.target.endpoint_url}", capabilities_of(door)) for door in doors]
    able = needs.able(asked, targets, model=call.model, field=_field(call, asked, lacked))
    if len(able) == len(doors):
        return doors
    for place, (door, (_, capabilities)) in enumerate(zip(doors, targets, strict=True)):
        if place not in able:
            failures.append(
                Failure(door.target, unsuitable(f"lacks {needs.listed(needs.lacking(asked, capabilities))}"))
            )
    return [doors[place] for place in able]


def _needs(call: Call, *, counted: bool) -> Needs:
    """Return what a call needs; of its length only where it is to be `counted`.

    Of one that is no request nothing: that is for an engine to say.
    """
    if call.operation is Operation.EMBED:
        return Needs(features=frozenset({Need.EMBEDDINGS}))
    if call.dialect is None or call.dialect not in _READ_HERE:
        return needs.of_request(call.request)  # its neutral form is there, or will be
    if not counted and not _names_one(call.body, _NAMES[call.dialect]):
        return _NONE  # most bodies need no second look
    try:
        asked = (_OPENAI if call.dialect is Dialect.OPENAI else _OLLAMA).decode(call.body)
        tokens = needs.context_tokens(_characters(asked)) if counted else 0
        wanted = _wanted(asked.options) if isinstance(asked, _OllamaAsked) else 0
        return Needs(features=_features(asked), context_tokens=tokens, wanted_tokens=wanted)
    except BAD_JSON:
        return Needs()


def _names_one(body: bytes, names: tuple[bytes, ...]) -> bool:
    """Whether one of the names may be in a body; where any is spelt with escapes, that is not to be seen."""
    for name in names:
        if body.find(name) >= 0:  # `in`, which raises and drops a TypeError, and `any` would cost more than the search
            return True
    return body.find(b"\\") >= 0 and body.find(b"\\u") >= 0


def _features(asked: _OpenAIAsked | _OllamaAsked) -> frozenset[Need]:
    messages = asked.messages or []
    calls = bool(asked.tools)
    if isinstance(asked, _OllamaAsked):
        formed = bytes(asked.format) not in {b"null", b'""'}
        sees = bool(asked.images) or any(message.images for message in asked.messages or [])
    else:
        formed = asked.response_format is not None and asked.response_format.type != "text"
        sees = any(part.type == "image_url" for message in messages for part in _parts(message.content))
        calls = calls and bytes(asked.tool_choice) != b'"none"'
    wanted = {Need.TOOLS: calls, Need.JSON_SCHEMA: formed, Need.IMAGES: sees}
    return frozenset(need for need, word in wanted.items() if word)


def _wanted(options: msgspec.Raw) -> int:
    """Return the tokens of context that are asked for; 0 where they are not, or where it is no such number."""
    try:
        found = _OPTIONS.decode(options)
        return max(_WHOLE.decode(found.num_ctx), 0) if found is not None else 0
    except BAD_JSON:
        return 0


def _parts(content: msgspec.Raw) -> list[_Part]:
    if bytes(memoryview(content)[:1]) != b"[":
        return []
    parts = _CONTENT.decode(content)
    return parts if isinstance(parts, list) else []


def _characters(asked: _OpenAIAsked | _OllamaAsked) -> int:
    """Return how long the texts of a prompt are, as far as they are texts."""
    said = [asked.prompt, asked.system, *(message.content for message in asked.messages or [])]
    return sum(_length(raw) for raw in said)


def _length(raw: msgspec.Raw) -> int:
    try:
        text = _CONTENT.decode(raw) or ""
    except BAD_JSON:
        return 0
    return len(text) if isinstance(text, str) else sum(len(part.text) for part in text)


def _field(call: Call, asked: Needs, lacked: int) -> str | None:
    """Return the field of the first need that some door lacks."""
    if call.dialect is None:
        return None
    return next(
        (fields[call.dialect] for need, fields in _FIELDS.items() if need in asked.features and lacked & BITS[need]),
        None,
    )
