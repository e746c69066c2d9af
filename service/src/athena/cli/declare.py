"""`athena backends declare`: the registry brought to what a list says."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from athena.cli.environment import load
from athena.errors import AthenaError, InvalidInputError, UnavailableError

if TYPE_CHECKING:
    from athena.cli.declaration import Change
    from athena.cli.registry_client import RegistryClient

PAUSE_SECONDS = 0.5


def declare(
    file: Annotated[Path | None, typer.Argument(help="A JSON list of backends; - or none: standard input.")] = None,
    *,
    mark: Annotated[
        str | None, typer.Option(help="The description that says that a backend came from a declaration.")
    ] = None,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait for an Admin API that is not up yet.")] = 0,
    partly: Annotated[
        bool, typer.Option("--partly", help="The list is a part of what is declared: remove no backend.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Say what would change, and change nothing.")] = False,
    token_file: Annotated[Path | None, typer.Option(help="A file with the token, in place of ADMIN_API_TOKEN.")] = None,
) -> None:
    """Bring the registry to a list of backends, and print what was changed as a JSON object.

    A backend is known again by its model and endpoint. Missing ones are created, differing ones changed, and those of
    an earlier declaration that are declared no longer are removed; those that somebody else added stay.
    """
    from athena.cli.declaration import MARK, decide, read
    from athena.cli.registry_client import RegistryClient
    from athena.settings import ClientSettings

    mark = MARK if mark is None else mark
    if not mark.strip():
        raise typer.BadParameter("an empty mark would be that of backends that others added", param_hint="--mark")
    client = RegistryClient(load(ClientSettings), token_file)
    declared = read(_content(file))
    changes = decide(_rows(client, patience), declared, mark=mark, removes=not partly)
    if not check:
        _make(client, changes)
    lines = [line for change in changes for line in change.lines]
    typer.echo(json.dumps({"changed": bool(lines), "changes": lines, "backends": len(declared)}))


def _content(file: Path | None) -> bytes:
    if file is None or str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"cannot read the declaration {file}: {error.strerror}; nothing was changed") from None


def _rows(client: "RegistryClient", patience: float) -> list[dict[str, Any]]:
    deadline = time.monotonic() + patience
    while True:
        try:
            return client.list()
        except UnavailableError:
            if time.monotonic() + PAUSE_SECONDS > deadline:
                raise
        time.sleep(PAUSE_SECONDS)


def _make(client: "RegistryClient", changes: "Sequence[Change]") -> None:
    """Make the changes one by one; the error of one that fails says which were made before it."""
    made: list[str] = []
    for change in changes:
        try:
            match change.action:
                case "create":
                    client.add(change.fields)
                case "change":
                    client.set(change.backend_id, change.fields)
                case "remove":
                    client.remove(change.backend_id)
        except AthenaError as error:
            before = f"changed before that: {'; '.join(made)}" if made else "nothing was changed before that"
            how = "was not confirmed" if isinstance(error, UnavailableError) else "was refused"
            raise type(error)(f"`{change.title}` {how}: {error.detail}; {before}") from None
        made += change.lines
