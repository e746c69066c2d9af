"""The commands put together, and what becomes of their errors: 0 done, 1 failed, 2 wrong usage or settings.

`verify` ends with 8 where an engine does not generate.
"""

import sys
from typing import NoReturn

import typer

from athena.cli import ask, backends, database, hosts, key, keys, serve, token, verify, why
from athena.errors import AthenaError

INTERRUPTED = 130

app = typer.Typer(
    name="athena",
    help="Athena LLM Backend: run its processes, look after its registry of backends, ask it a question.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(serve.serve)
app.command()(database.migrate)
app.add_typer(database.postgres)
app.command()(token.token)
app.add_typer(keys.keys)
app.add_typer(key.key_file)
app.add_typer(backends.backends)
app.add_typer(hosts.hosts)
app.command()(ask.ask)
app.command()(verify.verify)
app.command()(why.why)


def main() -> NoReturn:
    """Run the command line and exit with its status; a known error is one line on standard error, never a stack."""
    try:
        app()
    except AthenaError as error:
        typer.echo(f"error: {error.detail}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    raise AssertionError("typer leaves by SystemExit")
