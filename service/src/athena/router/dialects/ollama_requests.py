"""Ollama's requests, to and from the neutral form."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from athena.router.dialects.decoding import (
    Integer,
    Share,
    Temperature,
    arguments_of,
    convert,
    fields_of,
    leftovers,
    odd_types,
    present,
)
from athena.router.errors import RequestRejectedError
from athena.router.types import Message, Operation, Request, Sampling, ToolCall

# Extra fields of this dialect that are passed on to an engine that speaks it.
PASSED_ON = frozenset({"context", "images", "keep_alive", "raw", "suffix", "template", "think"})
# Extra fields that programs in Go, Ollama's own command among them, send empty where they have nothing to say.
_SAID_EMPTY = frozenset({"context", "images", "suffix", "template"})


class _Function(msgspec.Struct):
    name: str
    arguments: dict[str, Any] = {}
    index: int = 0  # their order says the same


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str = ""
    type: str = "function"


class _Message(msgspec.Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Options(msgspec.Struct):
    """The options that have a neutral word; a negative `num_predict` means no limit."""

    temperature: Temperature | None = None
    num_predict: Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    seed: Integer | None = None
    stop: list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None


class _Common(msgspec.Struct, kw_only=True):
    model: str
    stream: bool = True
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: dict[str, Any] | None = None


class _Chat(_Common, kw_only=True):
    messages: list[_Message] = []
    tools: list[dict[str, Any]] | None = None


class _Generate(_Common, kw_only=True):
    prompt: str = ""
    system: str | None = None


def decode(operation: Operation, body: bytes) -> Request:
    """See Codec.decode_request. Options without a neutral word stay together, as `options` among the extra fields."""
    fields = fields_of(body)
    kind = _Chat if operation is Operation.CHAT else _Generate
    asked = convert(fields, kind)
    options = {name: value for name, value in (asked.options or {}).items() if value is not None}
    extra = {
        name: value
        for name, value in fields.items()
        if name not in kind.__struct_fields__ and not (name in _SAID_EMPTY and value in ("", []))
    }
    if others := {name: value for name, value in options.items() if name not in _Options.__struct_fields__}:
        extra["options"] = others
    if operation is Operation.CHAT:
        extra |= _nested(fields)
    request = Request(
        operation=operation,
        model=asked.model,
        stream=asked.stream,
        sampling=_sampling(options),
        response_schema=asked.format if isinstance(asked.format, dict) else {} if asked.format == "json" else None,
        include_usage=True,  # its last line always counts
        extra=extra,
    )
    if isinstance(asked, _Chat):
        request.messages = [_message(message) for message in asked.messages]
        request.tools = asked.tools or []
    elif isinstance(asked, _Generate):
        request.prompt = asked.prompt
        request.system = asked.system
    return request


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what messages and tools say that has no neutral word, by its place."""
    found: dict[str, Any] = odd_types("tools", fields.get("tools", ()))
    for index, message in enumerate(fields.get("messages", ())):
        found |= leftovers(f"messages.{index}", message, _Message)
        calls = message.get("tool_calls") or ()
        found |= odd_types(f"messages.{index}.tool_calls", calls)
        for number, call in enumerate(calls):
            found |= leftovers(f"messages.{index}.tool_calls.{number}", call, _ToolCall)
            found |= leftovers(f"messages.{index}.tool_calls.{number}.function", call["function"], _Function)
    return found


def _sampling(fields: dict[str, Any]) -> Sampling:
    try:
        options = convert(fields, _Options)
    except RequestRejectedError as error:
        raise RequestRejectedError(f"options.{error.detail}", field=f"options.{error.field}") from error
    limit = options.num_predict
    return Sampling(
        temperature=options.temperature,
        max_tokens=limit if limit is not None and limit > 0 else None,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        seed=options.seed,
        stop=options.stop,
        frequency_penalty=options.frequency_penalty,
        presence_penalty=options.presence_penalty,
        repeat_penalty=options.repeat_penalty,
    )


def _message(message: _Message) -> Message:
    return Message(
        role=message.role,
        content=message.content or "",
        thinking=message.thinking or "",
        images=message.images or [],
        tool_calls=[
            ToolCall(
                id=call.id, name=call.function.name, arguments=msgspec.json.encode(call.function.arguments).decode()
            )
            for call in message.tool_calls or []
        ],
        tool_call_id=message.tool_call_id,
        tool_name=message.tool_name,
    )


def encode(request: Request) -> bytes:
    """See Codec.encode_request; raises RequestRejectedError where a tool call's arguments are no JSON object."""
    schema = request.response_schema
    fields = present(
        model=request.model,
        stream=request.stream,
        format=None if schema is None else schema or "json",
        options=options_of(request) or None,
    )
    fields |= {name: value for name, value in request.extra.items() if name in PASSED_ON}
    if request.operation is Operation.CHAT:
        names = {call.id: call.name for message in request.messages for call in message.tool_calls if call.id}
        fields["messages"] = [_written(index, message, names) for index, message in enumerate(request.messages)]
        if request.tools:
            fields["tools"] = request.tools
        if tells_likelihood(request):
            fields |= present(logprobs=True, top_logprobs=request.extra.get("top_logprobs"))
    else:
        fields |= present(prompt=request.prompt, system=request.system)
    return msgspec.json.encode(fields)


def tells_likelihood(request: Request) -> bool:
    """Whether a caller of the OpenAI API wants to know of the tokens of a chat how likely they were."""
    return request.extra.get("logprobs") is True or bool(request.extra.get("top_logprobs"))


def options_of(request: Request) -> dict[str, Any]:
    """Return what belongs into `options`."""
    sampling = request.sampling
    options: dict[str, Any] = request.extra.get("options", {})
    return options | present(
        temperature=sampling.temperature,
        num_predict=sampling.max_tokens,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        stop=sampling.stop,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        repeat_penalty=sampling.repeat_penalty,
    )


def _written(index: int, message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    """Write one message; `names` are those of the tools that were called, by the calls' ids: Ollama goes by them."""
    return present(
        role=message.role,
        content=message.content,
        thinking=message.thinking or None,
        images=message.images or None,
        tool_name=message.tool_name or names.get(message.tool_call_id or ""),
        tool_call_id=message.tool_call_id,
        tool_calls=[_tool_call(index, number, call) for number, call in enumerate(message.tool_calls)] or None,
    )


def _tool_call(index: int, number: int, call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments_of(index, number, call.arguments)}
    return present(id=call.id or None, function=function)
