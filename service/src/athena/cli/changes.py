"""Changes as commands take them: FIELD=VALUE."""

from collections.abc import Callable, Mapping
from typing import Any

import typer

Read = Callable[[str], Any]
"""Makes a field's value of its text; raises ValueError where it is none."""


def whole_or_none(text: str) -> int | None:
    """Return a whole number, or None where the text says so."""
    return None if text.lower() == "none" else int(text)


def change(text: str, fields: Mapping[str, Read], kinds: Mapping[Read, str]) -> tuple[str, Any]:
    """Return a field's name and its new value; `kinds` say in words what each way of reading takes.

    Raises typer.BadParameter.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not FIELD=VALUE")
    if name not in fields:
        raise typer.BadParameter(f"no field {name!r}; there are {', '.join(fields)}")
    try:
        return name, fields[name](value)
    except ValueError:
        raise typer.BadParameter(f"{name} takes {kinds[fields[name]]}, not {value!r}") from None
