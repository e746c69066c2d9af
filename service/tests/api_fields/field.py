"""A field of a request, and what is seen to become of it."""

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from enum import StrEnum
from typing import Any

import msgspec

from athena.errors import AthenaError
from athena.router.call import Call
from athena.router.engines import ENGINES, Rendered
from athena.router.errors import BackendError, FailureKind, RequestRejectedError
from athena.router.types import Backend, BackendType, Dialect, Operation


class Handling(StrEnum):
    """What becomes of a field on its way to an engine."""

    PASSED = "passed"
    TRANSLATED = "translated"
    EMULATED = "emulated"
    REFUSED = "refused"
    NO_EFFECT = "no effect"


class Field(msgspec.Struct, frozen=True):
    """A field by its place (`messages[].name`), and a request that has it, as far as it differs from the path's own.

    `emulated` says how the proxy itself does what the field asks for; `no_effect` why nothing is lost where an engine
    never hears of the field. An engine that never hears of a field of which neither is said has it dropped: a defect.
    `required` fields cannot be left out to see what changes.
    """

    place: str
    said: Mapping[str, Any]
    note: str = ""
    emulated: str = ""
    no_effect: str = ""
    required: bool = False


class Path(msgspec.Struct, frozen=True):
    """A path of the proxy, the least that it takes, and its fields."""

    path: str
    dialect: Dialect
    operation: Operation
    least: Mapping[str, Any]
    fields: tuple[Field, ...]
    title: str


_BACKEND = Backend(model_name="m", backend_type=BackendType.AUTO, endpoint_url="http://engine.example.internal")


def render(path: Path, body: Mapping[str, Any], engine: BackendType) -> Rendered:
    """Return what an engine is sent for this body; raises what it is refused with."""
    return ENGINES[engine].render(Call(path.dialect, path.operation, json.dumps(body).encode()), _BACKEND)


def handling(path: Path, field: Field, engine: BackendType) -> Handling:
    """Return what becomes of the field at an engine; fails where that is nothing at all, or a refusal of another."""
    asked = {**path.least, **field.said}
    assert _at(field.place, asked) is not None, f"{field.place} is not in its own request"
    try:
        rendered = render(path, asked, engine)
    except (BackendError, RequestRejectedError) as error:
        return _refused(error, field.place)
    sent = json.loads(rendered.body)
    if rendered.passthrough or _at(field.place, sent) == _at(field.place, asked):
        return Handling.PASSED
    if not field.required and json.loads(render(path, _without(field.place, asked), engine).body) == sent:
        assert field.emulated or field.no_effect, f"{field.place} is dropped on the way to {engine}"
        return Handling.EMULATED if field.emulated else Handling.NO_EFFECT
    return Handling.TRANSLATED


def _refused(error: AthenaError, place: str) -> Handling:
    """Return that a field is refused; fails where the error names neither it nor the object that it is a part of."""
    if isinstance(error, BackendError):
        assert error.kind is FailureKind.UNSUITABLE
        if "makes no embeddings" in error.detail:
            return Handling.REFUSED
    named = re.sub(r"\.\d+(?=\.|$)", "[]", error.field or "?").removesuffix(".type")
    assert place == named or place.startswith((f"{named}.", f"{named}[")), f"{place} is refused as {error.field}"
    return Handling.REFUSED


def _at(place: str, body: Any) -> Any:
    """Return what is at a place of a body; of a list the first member that has it. None: nothing."""
    for step in place.split("."):
        name = step.removesuffix("[]")
        body = body.get(name) if isinstance(body, dict) else None
        if step.endswith("[]"):
            if not isinstance(body, list):
                return None
            rest = place.partition("[].")[2]
            return next((found for each in body if (found := _at(rest, each)) is not None), None)
    return body


def _without(place: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body without what is at a place, everywhere that a list has it."""
    copy: dict[str, Any] = deepcopy(dict(body))
    _remove(place.split("."), copy)
    return copy


def _remove(steps: list[str], body: Any) -> None:
    name = steps[0].removesuffix("[]")
    if not isinstance(body, dict) or name not in body:
        return
    if len(steps) == 1:
        del body[name]
    else:
        for each in body[name] if steps[0].endswith("[]") else [body[name]]:
            _remove(steps[1:], each)
