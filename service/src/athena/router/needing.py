"""Keeps a call from the doors whose model is known to ignore a part of it, at next to no cost for all other calls."""

from math import inf
from typing import Final

from athena.router.asked_needs import READ_HERE, needs_of
from athena.router.board import CAN, CONTEXT
from athena.router.call import Call
from athena.router.engines.rendering import unsuitable
from athena.router.judging import needs
from athena.router.judging.needs import BITS, Capabilities, Need, Needs
from athena.router.policy import Failure
from athena.router.routes import Door
from athena.router.types import Dialect

# Places by which the bits of what a model does not do are to the left of those of what it does.
_CANNOT: Final = len(Need)
_IMAGES: Final = BITS[Need.IMAGES]
_FIELDS = {
    Need.JSON_SCHEMA: {Dialect.OPENAI: "response_format", Dialect.OLLAMA: "format", Dialect.RESPONSES: "text.format"},
    Need.TOOLS: dict.fromkeys(Dialect, "tools"),
    Need.IMAGES: {Dialect.OPENAI: "messages", Dialect.OLLAMA: "images", Dialect.RESPONSES: "input"},
    Need.EMBEDDINGS: dict.fromkeys(Dialect, "input"),
}


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
            tokens = float(said)
        if tokens and (not context or tokens < context):
            context = tokens
        widest = max(widest, tokens or inf)
    wide = widest > context > 0 and call.dialect is Dialect.OLLAMA  # which may ask for more than some have
    long = bool(context) and needs.may_exceed(len(call.body), context)
    if not (lacked or long or wide or (context and call.dialect not in READ_HERE)):
        return doors
    asked = needs_of(call, counted=long, pictured=bool(lacked & _IMAGES))
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


def _field(call: Call, asked: Needs, lacked: int) -> str | None:
    """Return the field of the first need that some door lacks."""
    if call.dialect is None:
        return None
    return next(
        (fields[call.dialect] for need, fields in _FIELDS.items() if need in asked.features and lacked & BITS[need]),
        None,
    )
