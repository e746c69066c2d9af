"""The input of OpenAI's Responses API: items of several kinds, which become the messages of a conversation."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from athena.router.dialects.decoding import arguments_at, convert, leftovers
from athena.router.dialects.openai_requests import image_of
from athena.router.errors import RequestRejectedError
from athena.router.types import Message, ToolCall

_TEXTS = {"input_text", "output_text", "text", "summary_text", "reasoning_text"}


class _Part(msgspec.Struct):
    """`detail`: an engine looks at an image in its own resolution. `prompt_cache_breakpoint` is for caches."""

    type: str
    text: str = ""
    refusal: str = ""
    image_url: str | None = None
    detail: str | None = None
    prompt_cache_breakpoint: Any = None


class _Item(msgspec.Struct, kw_only=True):
    """What all items have; a client that sends back what it was given sends these too, and they say nothing new."""

    type: str = "message"
    id: str | None = None
    status: str | None = None


class _Turn(_Item, kw_only=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[_Part]
    phase: str | None = None


class _Called(_Item, kw_only=True):
    call_id: str
    name: str
    arguments: str


class _Answered(_Item, kw_only=True):
    call_id: str
    output: str | list[_Part]
    name: str | None = None


class _Thought(_Item, kw_only=True):
    summary: list[_Part] = []
    content: list[_Part] | None = None


_KINDS: dict[str, type[_Item]] = {
    "message": _Turn,
    "function_call": _Called,
    "function_call_output": _Answered,
    "reasoning": _Thought,
}


def conversation(said: str | Sequence[dict[str, Any]]) -> tuple[list[Message], dict[str, Any]]:
    """Return the messages, and what the items say that has no neutral word, by its place.

    Raises RequestRejectedError with the item at fault.
    """
    if isinstance(said, str):
        return [Message(role="user", content=said)], {}
    making = _Making()
    for index, item in enumerate(said):
        making.take(f"input.{index}", item)
    return making.end(), making.beyond


class _Making:
    """The messages so far. What the assistant does in one turn is several items, but one message."""

    def __init__(self) -> None:
        self.beyond: dict[str, Any] = {}
        self._messages: list[Message] = []
        self._thinking = ""
        self._turn: Message | None = None  # the assistant's, to which more may be added

    def take(self, place: str, fields: dict[str, Any]) -> None:
        """Add an item."""
        kind = _KINDS.get(str(fields.get("type") or "message"))
        if kind is None:
            served = ", ".join(_KINDS)
            raise RequestRejectedError(f"{place}.type: {served} are served here", field=f"{place}.type")
        said = {name: value for name, value in fields.items() if value is not None}
        self.beyond |= _nested(place, said, kind)
        try:
            item = convert(said, kind)
        except RequestRejectedError as error:
            field = f"{place}.{error.field}" if error.field else place
            raise RequestRejectedError(f"{field}: {error.detail}", field=field) from error
        if isinstance(item, _Turn):
            self._say(place, item)
        elif isinstance(item, _Called):
            arguments_at(f"{place}.arguments", item.arguments)
            self._assistant().tool_calls.append(ToolCall(id=item.call_id, name=item.name, arguments=item.arguments))
        elif isinstance(item, _Answered):
            content, images = _text(f"{place}.output", item.output)
            self._add(
                Message(role="tool", content=content, images=images, tool_call_id=item.call_id, tool_name=item.name)
            )
        elif isinstance(item, _Thought):
            self._thinking += _text(f"{place}.content", item.content or item.summary)[0]
            self._turn = None

    def end(self) -> list[Message]:
        """Return the messages."""
        if self._thinking:
            self._assistant()
        return self._messages

    def _say(self, place: str, item: _Turn) -> None:
        content, images = _text(f"{place}.content", item.content)
        if item.role == "assistant":
            self._turn = None
            turn = self._assistant()
            turn.content, turn.images = content, images
        else:
            self._add(Message(role="system" if item.role == "developer" else item.role, content=content, images=images))

    def _assistant(self) -> Message:
        """Return the assistant's message to add to, with what was thought before it."""
        turn = self._turn
        if turn is None:
            turn = self._turn = Message(role="assistant", thinking=self._thinking, tool_calls=[], images=[])
            self._thinking = ""
            self._messages.append(turn)
        return turn

    def _add(self, message: Message) -> None:
        if self._thinking:
            self._assistant()
        self._turn = None
        self._messages.append(message)


def _nested(place: str, said: dict[str, Any], kind: type[_Item]) -> dict[str, Any]:
    """Return what an item and its parts say that has no neutral word, by its place."""
    found = leftovers(place, said, kind)
    for name in ("content", "output", "summary"):
        if isinstance(parts := said.get(name), list):
            for number, part in enumerate(parts):
                found |= leftovers(f"{place}.{name}.{number}", part, _Part) if isinstance(part, dict) else {}
    return found


def _text(field: str, content: str | Sequence[_Part]) -> tuple[str, list[str]]:
    """Return the text of an item, and its images."""
    if isinstance(content, str):
        return content, []
    texts: list[str] = []
    images: list[str] = []
    for index, part in enumerate(content):
        if part.type in _TEXTS:
            texts.append(part.text)
        elif part.type == "refusal":
            texts.append(part.refusal)
        elif part.type == "input_image" and part.image_url is not None:
            images.append(image_of(f"{field}.{index}.image_url", part.image_url))
        else:
            place = f"{field}.{index}.type"
            raise RequestRejectedError(
                f"{place}: parts of text, and images as data URLs, are served, not {part.type[:40]!r}", field=place
            )
    return "\n".join(texts), images
