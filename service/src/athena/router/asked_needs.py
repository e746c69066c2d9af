"""What a call needs that not every model does, found out with as little reading of its body as that takes."""

import msgspec

from athena.router.call import Call
from athena.router.dialects.decoding import ABSENT, BAD_JSON
from athena.router.judging import needs
from athena.router.judging.needs import Need, Needs
from athena.router.types import Dialect, Operation

READ_HERE = frozenset({Dialect.OPENAI, Dialect.OLLAMA})
"""The dialects whose bodies are read here; others are translated for every engine."""

# By what a message has images. No text has these bytes, for its quotes are escaped.
_IMAGES = {Dialect.OPENAI: b'"image_url"', Dialect.OLLAMA: b'"images"'}
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


def needs_of(call: Call, *, counted: bool, pictured: bool) -> Needs:
    """Return what a call needs: of its length only where it is to be `counted`, images perhaps not unless `pictured`.

    Of one that is no request nothing: that is for an engine to say.
    """
    if call.operation is Operation.EMBED:
        return Needs(features=frozenset({Need.EMBEDDINGS}))
    if call.dialect is None or call.dialect not in READ_HERE:
        return needs.of_request(call.request)  # its neutral form is there, or will be
    if not (counted or _names_one(call) or (pictured and _may_name(call.body, _IMAGES[call.dialect]))):
        return _NONE  # most bodies need no second look
    try:
        asked = (_OPENAI if call.dialect is Dialect.OPENAI else _OLLAMA).decode(call.body)
        tokens = needs.context_tokens(_characters(asked)) if counted else 0
        wanted = _wanted(asked.options) if isinstance(asked, _OllamaAsked) else 0
        return Needs(features=_features(asked), context_tokens=tokens, wanted_tokens=wanted)
    except BAD_JSON:
        return Needs()


def _names_one(call: Call) -> bool:
    """Whether the body has a field by which something is asked for of which this is about."""
    head = call.head
    if call.dialect is Dialect.OPENAI:
        return not (head.tools is ABSENT and head.response_format is ABSENT)
    fields = (head.tools, head.format, head.images, head.options)
    return any(field is not ABSENT for field in fields)


def _may_name(body: bytes, name: bytes) -> bool:
    """Whether a name may be in a body; where any is spelt with escapes, that is not to be seen."""
    # By `find`: `in` raises and drops a TypeError each time, which costs more than the search.
    return body.find(name) >= 0 or (body.find(b"\\") >= 0 and body.find(b"\\u") >= 0)


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
