"""OpenAI's requests, to and from the neutral form."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from athena.router.dialects import decoding
from athena.router.dialects.decoding import (
    Count,
    Integer,
    Penalty,
    Share,
    Temperature,
    convert,
    fields_of,
    leftovers,
    odd_types,
    present,
)
from athena.router.errors import RequestRejectedError
from athena.router.types import Message, Operation, Request, Sampling, ToolCall

# Extra fields of this dialect that are passed on to an engine that speaks it.
PASSED_ON = frozenset(
    {
        "best_of", "chat_template_kwargs", "echo", "guided_json", "ignore_eos", "logit_bias", "logprobs", "min_tokens",
        "n", "parallel_tool_calls", "reasoning_effort", "suffix", "tool_choice", "top_logprobs", "user",
    }
)  # fmt: skip
_IMAGE_TYPES = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}


class Said(msgspec.Struct):
    """What of a body decides whether an engine's defaults have to be put in; null counts as nothing said."""

    temperature: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class _ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None  # an engine looks at an image in its own resolution


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: _ImageUrl | None = None
    prompt_cache_breakpoint: Any = None  # for the provider's caches


class _Function(msgspec.Struct):
    name: str
    arguments: str = "{}"


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str = ""
    type: str = "function"
    index: int = 0  # of a stream's fragments, whose order says the same


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None


class _JsonSchema(msgspec.Struct):
    """`strict` is what holds anyway; `name` and `description` are for OpenAI's own models."""

    schema: dict[str, Any]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Common(msgspec.Struct, kw_only=True):
    model: str
    stream: bool = False
    stream_options: _StreamOptions | None = None
    temperature: Temperature | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    top_p: Share | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    seed: Integer | None = None
    stop: str | list[str] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    response_format: _ResponseFormat | None = None


class _Chat(_Common, kw_only=True):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    tools: list[dict[str, Any]] | None = None


class _Completion(_Common, kw_only=True):
    prompt: str | list[Any]


_SAID = msgspec.json.Decoder(Said)


def said(body: bytes) -> Said:
    """Return what a body says of what an engine has defaults for; raises RequestRejectedError."""
    return decoding.decode(_SAID, body)


def decode(operation: Operation, body: bytes) -> Request:
    """See Codec.decode_request."""
    fields = fields_of(body)
    kind = _Chat if operation is Operation.CHAT else _Completion
    asked = convert(fields, kind)
    request = Request(
        operation=operation,
        model=asked.model,
        stream=asked.stream,
        sampling=_sampling(asked),
        response_schema=_schema(asked.response_format),
        include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        extra={name: value for name, value in fields.items() if name not in kind.__struct_fields__} | _of_form(fields),
    )
    if not isinstance(request.extra.get("options", {}), dict):
        raise RequestRejectedError("options: Expected `object`", field="options")
    if isinstance(asked, _Chat):
        request.extra |= _of_conversation(fields)
        request.messages = [_message(index, message) for index, message in enumerate(asked.messages)]
        request.tools = asked.tools or []
    elif isinstance(asked, _Completion):
        request.prompt = _prompt(asked.prompt)
    return request


def _of_form(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of the reply's form that has no neutral word, by its place."""
    found: dict[str, Any] = {}
    for name, kind in (("stream_options", _StreamOptions), ("response_format", _ResponseFormat)):
        found |= leftovers(name, fields.get(name, {}), kind)
    schema = fields.get("response_format", {}).get("json_schema") or {}
    return found | leftovers("response_format.json_schema", schema, _JsonSchema)


def _of_conversation(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what messages and tools say that has no neutral word, by its place."""
    found: dict[str, Any] = odd_types("tools", fields.get("tools", ()))
    for index, message in enumerate(fields["messages"]):
        place = f"messages.{index}"
        found |= leftovers(place, message, _Message)
        if isinstance(parts := message.get("content"), list):
            for number, part in enumerate(parts):
                found |= leftovers(f"{place}.content.{number}", part, _Part)
                found |= leftovers(f"{place}.content.{number}.image_url", part.get("image_url") or {}, _ImageUrl)
        calls = message.get("tool_calls") or ()
        found |= odd_types(f"{place}.tool_calls", calls)
        for number, call in enumerate(calls):
            found |= leftovers(f"{place}.tool_calls.{number}", call, _ToolCall)
            found |= leftovers(f"{place}.tool_calls.{number}.function", call["function"], _Function)
    return found


def _sampling(asked: _Common) -> Sampling:
    return Sampling(
        temperature=asked.temperature,
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        top_p=asked.top_p,
        top_k=asked.top_k,
        min_p=asked.min_p,
        seed=asked.seed,
        stop=[asked.stop] if isinstance(asked.stop, str) else asked.stop,
        frequency_penalty=asked.frequency_penalty,
        presence_penalty=asked.presence_penalty,
        repeat_penalty=asked.repetition_penalty,
    )


def _schema(response_format: _ResponseFormat | None) -> dict[str, Any] | None:
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return {}
    if response_format.json_schema is None:
        raise RequestRejectedError(
            "response_format.json_schema: needed where type is json_schema", field="response_format.json_schema"
        )
    return response_format.json_schema.schema


def _prompt(prompt: str | list[Any]) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    raise RequestRejectedError(
        "prompt: a list of several prompts or of tokens is not served here; send one request for each prompt, as text",
        field="prompt",
    )


def _message(index: int, message: _Message) -> Message:
    content, images = _content(f"messages.{index}.content", message.content)
    of_tool = message.role in {"tool", "function"}
    return Message(
        role="system" if message.role == "developer" else "tool" if of_tool else message.role,
        content=content or message.refusal or "",
        thinking=message.reasoning or message.reasoning_content or "",
        images=images,
        tool_calls=[
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
            for call in message.tool_calls or []
        ],
        tool_call_id=message.tool_call_id,
        tool_name=message.name if of_tool else None,
        name=None if of_tool else message.name,
    )


def _content(field: str, content: str | list[_Part] | None) -> tuple[str, list[str]]:
    if content is None or isinstance(content, str):
        return content or "", []
    texts: list[str] = []
    images: list[str] = []
    for index, part in enumerate(content):
        if part.type == "text":
            texts.append(part.text)
        elif part.type == "refusal":
            texts.append(part.refusal)
        elif part.type == "image_url" and part.image_url is not None:
            images.append(image_of(f"{field}.{index}.image_url.url", part.image_url.url))
        else:
            raise RequestRejectedError(
                f"{field}.{index}.type: parts of type text, refusal and image_url are served, not {part.type[:40]!r}",
                field=f"{field}.{index}.type",
            )
    return "\n".join(texts), images


def image_of(field: str, url: str) -> str:
    """Return the base64 of an image in a data URL; raises RequestRejectedError where it is any other address."""
    prefix, separator, data = url.partition(";base64,")
    if not separator or not prefix.startswith("data:image/"):
        # An engine would fetch such an address itself, from inside the network.
        raise RequestRejectedError(f"{field}: send the image itself, as data:image/…;base64,…", field=field)
    return data


def encode(request: Request) -> bytes:
    """See Codec.encode_request."""
    sampling = request.sampling
    fields = present(
        model=request.model,
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        stop=sampling.stop,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        repetition_penalty=sampling.repeat_penalty,
        response_format=_response_format(request.response_schema),
        tools=request.tools or None,
        stream=request.stream or None,
        stream_options={"include_usage": True} if request.stream and request.include_usage else None,
    )
    fields |= {name: value for name, value in request.extra.items() if name in PASSED_ON}
    if request.operation is Operation.CHAT:
        fields["messages"] = _messages(request.messages)
    else:
        fields["prompt"] = f"{request.system}\n\n{request.prompt}" if request.system else request.prompt
    return msgspec.json.encode(fields)


def _response_format(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    if not schema:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "response", "schema": schema}}


def _messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Write the conversation; tool calls that came without ids (Ollama has none) are numbered.

    An answer without an id is the first's of its name that has none, or the first's.
    """
    written: list[dict[str, Any]] = []
    unanswered: dict[str, str] = {}
    for position, message in enumerate(messages):
        fields: dict[str, Any] = {"role": message.role, "content": _parts(message)}
        fields |= present(name=message.name, reasoning_content=message.thinking or None)
        if message.tool_calls:
            calls = [
                {
                    "id": call.id or f"call_{position}_{number}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for number, call in enumerate(message.tool_calls)
            ]
            unanswered = {str(call["id"]): called.name for call, called in zip(calls, message.tool_calls, strict=True)}
            fields["tool_calls"] = calls
        if message.role == "tool":
            of_name = next((call for call, name in unanswered.items() if name == message.tool_name), None)
            answered = message.tool_call_id or of_name or next(iter(unanswered), f"call_{position}")
            unanswered.pop(answered, None)
            fields["tool_call_id"] = answered
        written.append(fields)
    return written


def _parts(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    parts: list[dict[str, Any]] = [{"type": "text", "text": message.content}] if message.content else []
    for image in message.images:
        media = next((kind for start, kind in _IMAGE_TYPES.items() if image.startswith(start)), "image/png")
        parts.append({"type": "image_url", "image_url": {"url": f"data:{media};base64,{image}"}})
    return parts
