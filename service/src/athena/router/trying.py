"""What to ask of a server of OpenAI's API to see what its model does with a need, and what its answers show. Pure.

A need is asked for beside the plainest question. A server that heard it reads more tokens of prompt for it; one that
reads as many ignores it.
"""

from http import HTTPStatus
from typing import Any

import msgspec

from athena.router.judging.needs import Need

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
PROMPT = "Hi"
_SCHEMA_TOKENS = 8
# Grey, and of a size that a model of vision does not find too small.
_PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAAAAABXZoBIAAAAFElEQVR42mNowAMYRiVHJUclYQAA14+IELSdtnwAAAAASUVO"
    "RK5CYII="
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
# By these a server says that it was asked for what it does not do; by others that it cannot just now.
_REFUSALS = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.NOT_IMPLEMENTED,
    }
)
_NO_SUCH_PATH = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct):
    prompt_tokens: int


class Said(msgspec.Struct):
    """What of a reply shows whether a need was heard."""

    choices: list[_Choice]
    usage: _Usage | None = None


def question(model: str, need: Need | None) -> tuple[str, bytes]:
    """Return the path and the body that ask for a need; None: the plain question."""
    if need is Need.EMBEDDINGS:
        return EMBEDDINGS, msgspec.json.encode({"model": model, "input": PROMPT})
    content: Any = PROMPT
    more: dict[str, Any] = {"max_tokens": 1}
    if need is Need.TOOLS:
        more["tools"] = [_TOOL]
    elif need is Need.IMAGES:
        content = [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": _PNG}}]
    elif need is Need.JSON_SCHEMA:
        form = {"name": "a", "schema": _SCHEMA, "strict": True}
        more = {"max_tokens": _SCHEMA_TOKENS, "response_format": {"type": "json_schema", "json_schema": form}}
    messages = [{"role": "user", "content": content}]
    return CHAT, msgspec.json.encode({"model": model, "messages": messages, "temperature": 0, **more})


def plain(status: int, body: bytes) -> Said | None:
    """Return what is said to the plain question; None where that is no reply to compare others with."""
    return _said(body) if status == HTTPStatus.OK else None


def shown(need: Need, compared: Said | None, status: int, body: bytes) -> bool | None:
    """Return whether the model does what was asked for; None where the answer does not show it.

    `compared` is what was said to the plain question.
    """
    if need is Need.EMBEDDINGS:
        if status == HTTPStatus.OK:
            return b'"embedding"' in body
        return False if status in _REFUSALS or status in _NO_SUCH_PATH else None
    if compared is None or status in _REFUSALS:
        return None if compared is None else False
    said = plain(status, body)
    return _heard(need, compared, said) if said is not None else None


def _heard(need: Need, compared: Said, said: Said) -> bool | None:
    message = said.choices[0].message
    if need is Need.JSON_SCHEMA:
        text = (message.content or "").lstrip()
        return text.startswith("{") if text else None
    if message.tool_calls:
        return True
    if said.usage is None or compared.usage is None or not compared.usage.prompt_tokens:
        return None
    return said.usage.prompt_tokens > compared.usage.prompt_tokens


def _said(body: bytes) -> Said | None:
    try:
        said = msgspec.json.decode(body, type=Said)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return said if said.choices else None
