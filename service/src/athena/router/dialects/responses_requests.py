"""Requests of OpenAI's Responses API, to the neutral form of a conversation."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from athena.router.dialects.decoding import (
    Count,
    Share,
    Temperature,
    convert,
    fields_of,
    leftovers,
    odd_types,
    present,
)
from athena.router.dialects.responses_input import conversation
from athena.router.errors import RequestRejectedError
from athena.router.types import Message, Operation, Request, Sampling

# What would need a memory of earlier responses, and what to do instead.
_KEPT = {
    "background": "a response is not kept here until it is asked for; wait for it, or have it streamed",
    "conversation": "conversations are not kept here; send the earlier items as input",
    "previous_response_id": "responses are not kept here; send the earlier items as input",
    "prompt": "prompts are not kept here; send instructions and input",
    "store": "responses are not kept here; send store: false",
}
# What a response repeats of its request, and what it says where the request does not.
_ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "default",
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


class _Reasoning(msgspec.Struct):
    """`summary` and its older name need no heed: the reasoning text itself is told."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class _Format(msgspec.Struct):
    """`strict` is what holds anyway; `name` and `description` are for OpenAI's own models."""

    type: Literal["text", "json_object", "json_schema"]
    schema: dict[str, Any] | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Tool(msgspec.Struct):
    name: str
    type: Literal["function"] = "function"
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Nothing(msgspec.Struct):
    """An object of which nothing is known."""


class _Chosen(msgspec.Struct):
    """A choice of one function."""

    type: Literal["function"]
    name: str


class _Asked(msgspec.Struct, kw_only=True):
    model: str
    input: str | Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    instructions: str | None = None
    stream: bool = False
    stream_options: dict[str, Any] = {}
    temperature: Temperature | None = None
    top_p: Share | None = None
    max_output_tokens: Count | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: str | _Chosen | None = None
    reasoning: _Reasoning | None = None
    text: _Text | None = None


def decode(body: bytes) -> Request:
    """See Codec.decode_request; the operation is always a chat."""
    fields = fields_of(body)
    for name, remedy in _KEPT.items():
        if fields.get(name, False) is not False:
            raise RequestRejectedError(f"{name}: {remedy}", field=name)
    asked = convert(fields, _Asked)
    extra = {name: value for name, value in fields.items() if name not in _Asked.__struct_fields__}
    messages, beyond = conversation(asked.input)
    if asked.instructions:
        messages.insert(0, Message(role="system", content=asked.instructions))
    return Request(
        operation=Operation.CHAT,
        model=asked.model,
        stream=asked.stream,
        messages=messages,
        sampling=Sampling(temperature=asked.temperature, max_tokens=asked.max_output_tokens, top_p=asked.top_p),
        tools=_tools(asked.tools),
        response_schema=_schema(asked.text.format if asked.text else None),
        include_usage=True,  # its last event always counts
        extra=extra | _choices(asked) | _nested(fields) | beyond,
        echo={**_ECHOED, **{name: fields[name] for name in _ECHOED if name in fields}},
    )


def _choices(asked: _Asked) -> dict[str, Any]:
    """Return what chat has a field of its own for."""
    chosen = asked.tool_choice
    if isinstance(chosen, str) and chosen not in {"auto", "none", "required"}:
        raise RequestRejectedError("tool_choice: must be auto, none, required or a function", field="tool_choice")
    return present(
        tool_choice={"type": "function", "function": {"name": chosen.name}} if isinstance(chosen, _Chosen) else chosen,
        reasoning_effort=asked.reasoning.effort if asked.reasoning else None,
    )


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the fields' objects say that has no neutral word, by its place."""
    reasoning, text = fields.get("reasoning", {}), fields.get("text", {})
    found = leftovers("reasoning", reasoning, _Reasoning) | leftovers("text", text, _Text)
    found |= {f"reasoning.{name}": reasoning[name] for name in ("context", "mode") if reasoning.get(name)}
    found |= {"text.verbosity": text["verbosity"]} if text.get("verbosity") else {}
    found |= leftovers("text.format", text.get("format") or {}, _Format)
    found |= leftovers("stream_options", fields.get("stream_options", {}), _Nothing)
    tools = fields.get("tools", ())
    if found_types := odd_types("tools", tools):
        return found | found_types
    for index, tool in enumerate(tools):
        found |= leftovers(f"tools.{index}", tool, _Tool)
    return found


def _tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the functions as chat has them; other tools are refused by their types."""
    functions: list[dict[str, Any]] = []
    for index, tool in enumerate(tools):
        if tool.get("type", "function") != "function":
            continue
        try:
            function = convert(tool, _Tool)
        except RequestRejectedError as error:
            field = f"tools.{index}.{error.field}"
            raise RequestRejectedError(f"tools.{index}.{error.detail}", field=field) from error
        said = present(
            name=function.name,
            description=function.description,
            parameters=function.parameters,
            strict=function.strict,
        )
        functions.append({"type": "function", "function": said})
    return functions


def _schema(form: _Format | None) -> dict[str, Any] | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {}
    if form.schema is None:
        raise RequestRejectedError("text.format.schema: needed where type is json_schema", field="text.format.schema")
    return form.schema
