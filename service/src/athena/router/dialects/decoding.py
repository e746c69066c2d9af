"""What both dialects need to read a caller's JSON, and to say what is wrong with it."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec

from athena.router.errors import RequestRejectedError

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=100)]

# What msgspec raises for bytes that are not the JSON that is expected.
BAD_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_PLACE = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_INDEX = re.compile(r"\[(\d*)\]")


ABSENT: Final = msgspec.Raw()
"""Stands in a `Head` for a field that the body does not have; a null is no such."""


class Head(msgspec.Struct):
    """What routing looks at. Of the fields in the caller's own spelling it only matters whether the body has them."""

    model: Annotated[str, msgspec.Meta(max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")]
    stream: bool | None = None
    temperature: msgspec.Raw = ABSENT
    max_tokens: msgspec.Raw = ABSENT
    max_completion_tokens: msgspec.Raw = ABSENT
    tools: msgspec.Raw = ABSENT
    response_format: msgspec.Raw = ABSENT
    format: msgspec.Raw = ABSENT
    images: msgspec.Raw = ABSENT
    options: msgspec.Raw = ABSENT


_HEAD = msgspec.json.Decoder(Head)
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_RAW_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _rejected(error: Exception) -> RequestRejectedError:
    """Turn msgspec's message, which ends with the place at fault, into one that names the field."""
    if isinstance(error, RecursionError):
        return RequestRejectedError("The body is nested too deeply.")
    if isinstance(error, UnicodeDecodeError):
        return RequestRejectedError("The body is not UTF-8.")
    message = str(error)
    place = _PLACE.search(message)
    if isinstance(error, msgspec.ValidationError) and place:
        # The place is unknown below a key that could be anything, which msgspec writes as [...].
        field = _INDEX.sub(r".\1", place["path"].split("[...]")[0]).strip(".")
        return RequestRejectedError(f"{field or 'body'}: {message[: place.start()]}", field=field or None)
    if isinstance(error, msgspec.ValidationError):
        missing = re.search(r"missing required field `(\w+)`", message)
        return RequestRejectedError(f"The body is not as expected: {message}", field=missing[1] if missing else None)
    return RequestRejectedError(f"The body is not JSON: {message}")


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Return the body as the decoder's type; raises RequestRejectedError with the field at fault."""
    try:
        return decoder.decode(body)
    except BAD_JSON as error:
        raise _rejected(error) from error


def peek(body: bytes) -> Head:
    """Return what routing looks at; see Codec.peek."""
    head = decode(_HEAD, body)
    if not body.isascii():
        # Text that routing does not look at has not been checked, and an engine may fail over it.
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise _rejected(error) from error
    return head


def fields_of(body: bytes) -> dict[str, Any]:
    """Return the body's fields as they are, without those that are null: both dialects take null for absent."""
    return {name: value for name, value in decode(_OBJECT, body).items() if value is not None}


def raw_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """Return the body's fields in the caller's own spelling, the last where one comes twice."""
    return decode(_RAW_FIELDS, body)


def convert(fields: Mapping[str, Any], kind: type[T]) -> T:
    """Return the fields as `kind`; raises RequestRejectedError with the field at fault."""
    try:
        return msgspec.convert(fields, kind)
    except BAD_JSON as error:
        raise _rejected(error) from error


def leftovers(place: str, said: Mapping[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the fields of the object at `place` that `kind` does not have, by their places; empty ones say nothing."""
    return {
        f"{place}.{name}": value
        for name, value in said.items()
        if name not in kind.__struct_fields__ and value not in (None, False, "", [], {})
    }


def odd_types(place: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the types of the tools, or calls of tools, at `place` that are no functions, by their places."""
    kinds = {f"{place}.{index}.type": tool.get("type") or "function" for index, tool in enumerate(tools)}
    return {place: kind for place, kind in kinds.items() if kind != "function"}


def arguments_of(message: int, number: int, text: str) -> dict[str, Any]:
    """Return the arguments of a message's tool call, which are a JSON object as text or nothing.

    Raises RequestRejectedError where they are neither.
    """
    return arguments_at(f"messages.{message}.tool_calls.{number}.function.arguments", text)


def arguments_at(field: str, text: str) -> dict[str, Any]:
    """Return the arguments of the tool call at `field`; see arguments_of."""
    try:
        arguments: dict[str, Any] = _OBJECT.decode(text or "{}")
    except BAD_JSON as error:
        raise RequestRejectedError(f"{field}: must be a JSON object, as text ({error})", field=field) from error
    return arguments


def present(**values: object) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
