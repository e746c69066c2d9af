"""`athena hosts`: what the agents of the hosts have reported, over the Admin API of ADMIN_API_URL."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from athena.cli.environment import load
from athena.cli.words import columns, one_line

if TYPE_CHECKING:
    from athena.cli.registry_client import RegistryClient

hosts = typer.Typer(
    name="hosts",
    help="See the hosts of the engines as their agents report them. Needs ADMIN_API_URL and ADMIN_API_TOKEN.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TokenFile = Annotated[Path | None, typer.Option(help="A file with the token, in place of ADMIN_API_TOKEN.")]
TITLES = ("HOST", "REPORTED", "ENGINE", "STATE", "RESTARTS", "GIVEN UP", "ENGINE GB", "FREE GB", "DISK GB", "DETAIL")
_BILLION = 1e9
_DETAIL = 60


@hosts.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, token_file: TokenFile = None
) -> None:
    """Show every engine of every host: its state, restarts of late, and the memory and disk that are free."""
    found = _client(token_file).hosts()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    now = datetime.now(UTC)
    for line in columns([TITLES, *(row for host in found for row in _rows(host, now))]):
        typer.echo(line)


@hosts.command()
def rm(name: Annotated[str, typer.Argument(help="The host's name.")], token_file: TokenFile = None) -> None:
    """Forget a host that is no more; it comes back if its agent reports again."""
    _client(token_file).forget_host(name)
    typer.echo(f"forgot host {name}")


def _client(token_file: Path | None) -> "RegistryClient":
    from athena.cli.registry_client import RegistryClient
    from athena.settings import ClientSettings

    return RegistryClient(load(ClientSettings), token_file)


def _rows(host: dict[str, Any], now: datetime) -> list[list[str]]:
    report = host["report"]
    figures = report["figures"]
    age = round((now - datetime.fromisoformat(host["received_at"])).total_seconds())
    return [
        [
            host["name"],
            f"{max(0, age)} s ago",
            engine["name"],
            engine["state"],
            str(engine["restarts_lately"]),
            "yes" if engine["given_up_at"] else "no",
            _gigabytes(engine["resident_bytes"]),
            _gigabytes(figures["memory_available_bytes"]),
            _gigabytes(figures["disk_free_bytes"]),
            one_line((engine["last_probe"] or {}).get("detail", ""), _DETAIL) or "-",
        ]
        for engine in report["engines"]
    ]


def _gigabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / _BILLION:.1f}"
