"""`athena key`: a file of API keys of the model proxy's callers; those of the registry are `athena keys`."""

from pathlib import Path
from typing import Annotated

import typer

key_file = typer.Typer(
    name="key",
    help="Make and check a file of API keys, PROXY_API_KEYS_FILE of the model proxy; `athena keys` needs no file.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@key_file.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, as logs and queues will know the caller.")],
) -> None:
    """Print a new key, which is shown this once, and on the next line what belongs into the file of keys."""
    from athena.proxy.keys import new_key

    key, line = new_key(name)
    typer.echo(key)
    typer.echo(line)
    typer.echo(
        f"The first line is the key: give it to {name}, it cannot be shown again. The second line belongs into the file"
        " that PROXY_API_KEYS_FILE names; a running proxy takes it within a second or two.",
        err=True,
    )


@key_file.command()
def check(file: Annotated[Path, typer.Argument(help="A file of keys.")]) -> None:
    """Say whose keys a file holds, or which of its lines is wrong."""
    from athena.proxy.keys import read

    found = read(file)
    callers = sorted({key.caller for key in found})
    typer.echo(f"{file}: {len(found)} keys of {len(callers)} callers: {', '.join(callers)}")
