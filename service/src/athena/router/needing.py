"""Keeps a call from the doors whose model is known to ignore a part of it, at next to no cost for all other calls."""

from typing import Any

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
# A body without these bytes does not ask for it. A name that is spelt with escapes is missed: an engine to which the
# body is translated still refuses what it would ignore.
_HINTS = {
    Dialect.OPENAI: (
        (BITS[Need.TOOLS], b'"tools"'),
        (BITS[Need.IMAGES], b'"image_url"'),
        (BITS[Need.JSON_SCHEMA], b'"response_format"'),
    ),
    Dialect.OLLAMA: (
        (BITS[Need.TOOLS], b'"tools"'),
        (BITS[Need.IMAGES], b'"images"'),
        (BITS[Need.JSON_SCHEMA], b'"format"'),
    ),
}
_FIELDS = {
    Need.JSON_SCHEMA: {Dialect.OPENAI: "response_format", Dialect.OLLAMA: "format", Dialect.RESPONSES: "text.format"},
    Need.TOOLS: dict.fromkeys(Dialect, "tools"),
    Need.IMAGES: {Dialect.OPENAI: "messages", Dialect.OLLAMA: "images", Dialect.RESPONSES: "input"},
    Need.EMBEDDINGS: dict.fromkeys(Dialect, "input"),
}


class _Part(msgspec.Struct):
    type: str = "text"
    text: str = ""


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None
    images: list[msgspec.Raw] | None = None


class _Form(msgspec.Struct):
    type: str = "text"


class _Asked(msgspec.Struct):
    """What of a body a need can be seen by; of each dialect's fields those that it has."""

    messages: list[_Message] | None = None
    prompt: Any = ""
    system: str | None = None
    tools: list[msgspec.Raw] | None = None
    images: list[msgspec.Raw] | None = None
    response_format: _Form | None = None
    format: msgspec.Raw = msgspec.Raw(b"null")


_ASKED = msgspec.json.Decoder(_Asked)


def known(capabilities: Capabilities) -> tuple[float, float]:
    """Return the cells CAN and CONTEXT of what was found out of a model."""
    can, cannot = needs.masks(capabilities.can)
    return float(can | cannot << _CANNOT), float(capabilities.context_tokens or 0)


def capabilities_of(door: Door) -> Capabilities:
    """Return what is known of a door's model: what its backend's row says, before what was found out."""
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
    lacked, context = 0, 0.0
    for door in doors:
        cells = door.gate.cells
        lacked |= (int(cells[CAN]) >> _CANNOT & ~door.can) | door.cannot
        tokens = door.said.context_tokens or cells[CONTEXT]
        if tokens and (not context or tokens < context):
            context = tokens
    if not _may_need(call, lacked, context):
        return doors
    asked = _needs(call)
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


def _may_need(call: Call, lacked: int, context: float) -> bool:
    """Whether a call could need something that a door lacks, by a look at its bytes."""
    if call.operation is Operation.EMBED:
        return bool(lacked & BITS[Need.EMBEDDINGS])
    hints = _HINTS.get(call.dialect) if call.dialect is not None else None
    if hints is None:
        return bool(lacked or context)  # its neutral form is there, or will be
    if context and needs.may_exceed(len(call.body), context):
        return True
    body = call.body
    return any(lacked & bit and hint in body for bit, hint in hints)


def _needs(call: Call) -> Needs:
    """Return what a call needs. Of one that is no request nothing: that is for an engine to say."""
    if call.operation is Operation.EMBED:
        return Needs(features=frozenset({Need.EMBEDDINGS}))
    if call.dialect not in _HINTS:
        return needs.of_request(call.request)
    try:
        asked = _ASKED.decode(call.body)
    except BAD_JSON:
        return Needs()
    features = set()
    if asked.tools:
        features.add(Need.TOOLS)
    if _wants_form(asked, call.dialect):
        features.add(Need.JSON_SCHEMA)
    messages = asked.messages or []
    parts = [part for message in messages if isinstance(message.content, list) for part in message.content]
    if call.dialect is Dialect.OPENAI:
        sees = any(part.type == "image_url" for part in parts)
    else:
        sees = bool(asked.images) or any(message.images for message in messages)
    if sees:
        features.add(Need.IMAGES)
    said = [message.content for message in messages] + [part.text for part in parts] + [asked.prompt, asked.system]
    characters = sum(len(text) for text in said if isinstance(text, str))
    return Needs(features=frozenset(features), context_tokens=needs.context_tokens(characters))


def _wants_form(asked: _Asked, dialect: Dialect | None) -> bool:
    if dialect is Dialect.OPENAI:
        return asked.response_format is not None and asked.response_format.type != "text"
    return bytes(asked.format) not in {b"null", b'""'}


def _field(call: Call, asked: Needs, lacked: int) -> str | None:
    """Return the field of the first need that some door lacks."""
    if call.dialect is None:
        return None
    return next(
        (fields[call.dialect] for need, fields in _FIELDS.items() if need in asked.features and lacked & BITS[need]),
        None,
    )
