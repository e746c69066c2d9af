"""`athena migrate` and `athena postgres`: the schema, and the PostgreSQL that comes with the package."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from athena.cli.environment import database_errors, got_no_connection, load
from athena.connecting import persist
from athena.errors import InvalidInputError

postgres = typer.Typer(
    name="postgres",
    help="The embedded PostgreSQL: for one machine, with nothing installed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
DataFolder = Annotated[Path, typer.Option(help="The folder of the database.")]


def migrate(
    revision: Annotated[str, typer.Argument(help="The revision to upgrade to.")] = "head",
    down: Annotated[str | None, typer.Option(metavar="REVISION", help="Go back to this one, or to `base`.")] = None,
    show: Annotated[
        bool,
        typer.Option("--show", help="Print as JSON the current and the newest revision, and what is between them."),
    ] = False,
    back_to: Annotated[
        str | None,
        typer.Option(metavar="REVISION", help="Print as JSON how the schema can go back to this one, or to `base`."),
    ] = None,
    known: Annotated[
        bool,
        typer.Option("--known", help="Print as JSON the revisions that this version knows; asks no database."),
    ] = False,
) -> None:
    """Bring the schema of DATABASE_URL to a revision."""
    from alembic.util import CommandError

    from athena.db import migrate as migrations
    from athena.db.way_back import way_back
    from athena.settings import DatabaseSettings

    if known:
        typer.echo(json.dumps(sorted(migrations.revisions())))
        return
    settings = load(DatabaseSettings)
    url = settings.database_url.get_secret_value()
    persistently = partial(persist, seconds=settings.connect_seconds, was_kept_out=got_no_connection)
    try:
        with database_errors(url):
            if show:
                told = persistently(lambda: migrations.current_and_head(url))
                pending = [] if told.ahead else migrations.steps_down(told.head, told.current or "base")
                typer.echo(json.dumps({**told._asdict(), "pending": [step._asdict() for step in reversed(pending)]}))
            elif back_to is not None:
                current = persistently(lambda: migrations.current_and_head(url)).current
                steps = migrations.steps_down(current, back_to)
                typer.echo(json.dumps({"way": way_back(steps), "steps": [step._asdict() for step in steps]}))
            elif down is not None:
                persistently(lambda: migrations.downgrade(url, down))
            else:
                persistently(lambda: migrations.upgrade(url, revision))
    except (CommandError, migrations.UnknownRevisionError) as error:
        raise InvalidInputError(f"no such step: {error}") from None


@postgres.command()
def init(
    data: DataFolder,
    password_file: Annotated[Path, typer.Option(help="A file whose first line is the password of the role athena.")],
) -> None:
    """Make the database folder, with the role and the database `athena`, unless it is there already."""
    from athena.db import embedded

    made = embedded.initdb(data, password_file)
    typer.echo(f"made {data}" if made else f"{data} is there already")


@postgres.command()
def run(data: DataFolder, port: Annotated[int, typer.Option(min=1, max=65535, help="The port on 127.0.0.1.")]) -> None:
    """Become PostgreSQL, in the foreground, until SIGINT (at once) or SIGTERM (when every client has left)."""
    from athena.db import embedded

    embedded.run(data, port)
