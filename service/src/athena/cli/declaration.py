"""What the registry is to have against what it has: the decisions of `athena backends declare`, without any I/O."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from pydantic import ValidationError

from athena.admin.schemas import BackendNew
from athena.cli.words import one_line, without_credentials
from athena.errors import InvalidInputError

MARK = "Declared in the inventory."
_JSON_TYPES: dict[type, str] = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}
_SIGNS = {"create": "+", "change": "~", "remove": "-"}

Fields = dict[str, Any]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One request to the registry: `fields` are what it sends, `before` what the row has in their place."""

    action: Literal["create", "change", "remove"]
    model_name: str
    endpoint_url: str
    backend_id: int = 0  # of a row; one that is created has none yet
    fields: Fields = {}
    before: Fields = {}

    @property
    def title(self) -> str:
        """What is done to which backend."""
        model, url = one_line(self.model_name), one_line(without_credentials(self.endpoint_url))
        return f"{_SIGNS[self.action]} backend {model} at {url}"

    @property
    def lines(self) -> list[str]:
        """The change as lines of a difference: a changed backend has one for each field."""
        if self.action != "change":
            return [self.title]
        return [
            f"{self.title}: {name} {_shown(self.before.get(name))} becomes {_shown(value)}"
            for name, value in self.fields.items()
        ]


def read(document: bytes) -> list[Fields]:
    """Return what a JSON list declares, each entry with the fields that it names, in the registry's own form.

    Raises InvalidInputError, which tells all that is wrong, but no value: there may be a password in it.
    """
    try:
        entries = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the declaration is no JSON: {error}; nothing was changed") from None
    if not isinstance(entries, list):
        raise InvalidInputError(
            f"the declaration must be a JSON list of backends, not {_JSON_TYPES[type(entries)]}; nothing was changed"
        )
    declared: list[Fields] = []
    faults: list[str] = []
    first: dict[tuple[str, str], int] = {}
    for number, entry in enumerate(entries, 1):
        fields, wrong = _check(entry)
        if fields is not None:
            other = first.setdefault(_key(fields), number)
            if other != number:
                wrong.append(f"the same model and endpoint as entry {other}; leave one of them out")
            declared.append(fields)
        faults += [f"{_name(number, entry)}: {fault}" for fault in wrong]
    if faults:
        raise InvalidInputError("\n  ".join(["the declaration does not hold; nothing was changed:", *faults]))
    return declared


def decide(
    rows: Sequence[Mapping[str, Any]], declared: Sequence[Mapping[str, Any]], *, mark: str, removes: bool = True
) -> list[Change]:
    """Return the changes that bring the registry to what is declared, in the order in which to make them.

    Rows whose description is `mark` came from an earlier declaration: without an entry they go, all others stay; unless
    it `removes` nothing, because the list is a part of what is declared. Only
    fields that an entry names are compared, and `enabled` and the description, which have defaults here. A declared
    model is never without a backend on the way: what is new comes first, what goes last.
    """
    known: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        known.setdefault(_key(row), []).append(row)
    created: list[Change] = []
    changed: list[Change] = []
    for entry in declared:
        wanted = {"description": mark, "enabled": True, **entry}
        there = known.get(_key(wanted))
        if there is None:
            created.append(_change("create", wanted, {"priority": 0, **wanted}))
            continue
        # The registry takes two at one address for two engine types.
        row = next((row for row in there if row["backend_type"] == wanted["backend_type"]), there[0])
        differing = {name: value for name, value in wanted.items() if row.get(name) != value}
        if differing:
            changed.append(_change("change", row, differing))
    changed.sort(key=lambda change: change.fields.get("enabled") is False)
    kept = {_key(entry) for entry in declared}
    removed = [
        _change("remove", row) for row in rows if removes and row.get("description") == mark and _key(row) not in kept
    ]
    return [*created, *changed, *removed]


def _key(backend: Mapping[str, Any]) -> tuple[str, str]:
    return backend["model_name"], backend["endpoint_url"].rstrip("/")


def _change(
    action: Literal["create", "change", "remove"], backend: Mapping[str, Any], fields: Fields | None = None
) -> Change:
    fields = fields or {}
    return Change(
        action=action,
        model_name=backend["model_name"],
        endpoint_url=backend["endpoint_url"],
        backend_id=backend.get("id", 0),
        fields=fields,
        before={name: backend.get(name) for name in fields},
    )


def _check(entry: Any) -> tuple[Fields | None, list[str]]:
    """Return the fields that an entry names, None where they do not hold, and what is wrong with them."""
    if not isinstance(entry, dict):
        return None, [f"must be an object with the fields of a backend, not {_JSON_TYPES[type(entry)]}"]
    try:
        return BackendNew.model_validate(entry).model_dump(exclude_unset=True), []
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        return None, [_fault(entry, fault["loc"], fault["type"], fault["msg"]) for fault in faults]


def _fault(entry: Fields, place: Sequence[int | str], kind: str, message: str) -> str:
    field, *inner = map(str, place)
    name = one_line(".".join((field, *inner)))
    if inner:
        said = "is no capability" if kind == "extra_forbidden" else message.removeprefix("Value error, ")
        return f"{name}: {said}"
    match kind:
        case "missing":
            return f"{name} is missing; every entry needs model_name, backend_type and endpoint_url"
        case "extra_forbidden":
            return f"{name} is no field of a backend; there are {', '.join(BackendNew.model_fields)}"
    found = f", not {_JSON_TYPES[type(entry[field])]}" if kind.endswith("_type") else ""
    return f"{name}: {message.removeprefix('Value error, ')}{found}"


def _name(number: int, entry: Any) -> str:
    model = entry.get("model_name") if isinstance(entry, dict) else None
    return f"entry {number} ({one_line(model, 60)})" if model and isinstance(model, str) else f"entry {number}"


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, str):
        return one_line(without_credentials(value)) or '""'
    return json.dumps(value)
