"""`athena migrate` and `athena postgres`: the schema, and the PostgreSQL that comes with the package."""

import json
from pathlib import Path
from typing import Annotated

import typer

from athena.cli.environment import load

postgres = typer.Typer(
    name="postgres",
    help="The embedded PostgreSQL: for one machine, with nothing installed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
DataFolder = Annotated[Path, typer.Option(help="The folder of the database.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="The port on 127.0.0.1.")]


def migrate(
    revision: Annotated[str, typer.Argument(help="The revision to upgrade to.")] = "head",
    down: Annotated[str | None, typer.Option(metavar="REVISION", help="Go back to this one, or to `base`.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the current and the newest revision as JSON.")] = False,
) -> None:
    """Bring the schema of DATABASE_URL to a revision."""
    from athena.db import migrate as migrations
    from athena.settings import DatabaseSettings

    url = load(DatabaseSettings).database_url.get_secret_value()
    if show:
        typer.echo(json.dumps({"current": migrations.current(url), "head": migrations.head()}))
    elif down is not None:
        migrations.downgrade(url, down)
    else:
        migrations.upgrade(url, revision)


@postgres.command()
def init(
    data: DataFolder,
    port: Port = 15432,
    password_file: Annotated[Path | None, typer.Option(help="A file with the password of the role.")] = None,
) -> None:
    """Make the database folder if it is not there yet."""
    from athena.db import embedded

    embedded.init(data, port=port, password_file=password_file)


@postgres.command()
def run(data: DataFolder, port: Port = 15432) -> None:
    """Run PostgreSQL in the foreground until SIGTERM or Ctrl-C."""
    from athena.db import embedded

    embedded.run(data, port=port)
