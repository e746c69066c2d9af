"""`athena keys`: the API keys of the model proxy's callers, over the Admin API of ADMIN_API_URL."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from athena.cli.environment import load
from athena.cli.words import columns

if TYPE_CHECKING:
    from athena.cli.registry_client import RegistryClient

keys = typer.Typer(
    name="keys",
    help="Make, list and revoke API keys of the model proxy. Needs ADMIN_API_URL and ADMIN_API_TOKEN.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TITLES = ("ID", "NAME", "KEY", "STATE", "SCOPES", "MODELS", "REQUESTS/MIN", "TOKENS/MIN", "CREATED", "EXPIRES", "USED")
TokenFile = Annotated[Path | None, typer.Option(help="A file with the token, in place of ADMIN_API_TOKEN.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, as logs and queues will know the caller.")],
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What it is for: prompts, embeddings, models, admin; may be given again. Default: all but admin."
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it may use; may be given again. Default: all.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Requests in 60 s. Default: no limit.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(help="Tokens in 60 s, of prompts and replies. Default: no limit.")
    ] = None,
    expires_in_days: Annotated[int | None, typer.Option(help="Days until it ends. Default: it does not.")] = None,
    as_json: AsJson = False,
    token_file: TokenFile = None,
) -> None:
    """Print a new key, which is shown this once."""
    fields = {
        "name": name,
        "scopes": scope or None,
        "models": model or None,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "expires_in_days": expires_in_days,
    }
    made = _client(token_file).make_key({field: value for field, value in fields.items() if value is not None})
    if as_json:
        typer.echo(json.dumps(made, indent=2))
        return
    typer.echo(made["key"])
    typer.echo(
        f"This is key {made['id']}: give it to {name}, it cannot be shown again. `athena keys revoke {made['id']}` ends"
        " it. A running proxy that asks for keys takes it at once.",
        err=True,
    )


@keys.command("list")
def list_(
    valid_only: Annotated[
        bool, typer.Option("--valid-only", help="Leave out those that were revoked or have expired.")
    ] = False,
    as_json: AsJson = False,
    token_file: TokenFile = None,
) -> None:
    """Show every key by its first characters: whose it is, what it may do, when it was last used."""
    found = _client(token_file).keys(valid_only=valid_only)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    now = datetime.now(UTC)
    for line in columns([TITLES, *(_cells(key, now) for key in found)]):
        typer.echo(line)


@keys.command()
def revoke(
    key_id: Annotated[int, typer.Argument(metavar="ID", min=1, help="As `athena keys list` shows it.")],
    token_file: TokenFile = None,
) -> None:
    """Have a key hold no more, for good; running proxies refuse it at once."""
    revoked = _client(token_file).revoke_key(key_id)
    typer.echo(f"revoked key {key_id} of {revoked['name']}, {revoked['prefix']}…")


def _client(token_file: Path | None) -> "RegistryClient":
    from athena.cli.registry_client import RegistryClient
    from athena.settings import ClientSettings

    return RegistryClient(load(ClientSettings), token_file)


def _cells(key: dict[str, Any], now: datetime) -> list[str]:
    return [
        str(key["id"]),
        key["name"],
        f"{key['prefix']}…",
        _state(key, now),
        ",".join(key["scopes"]),
        ",".join(key["models"]) if key["models"] is not None else "all",
        *(str(key[limit] or "-") for limit in ("requests_per_minute", "tokens_per_minute")),
        *(key[moment] or "-" for moment in ("created_at", "expires_at", "last_used_at")),
    ]


def _state(key: dict[str, Any], now: datetime) -> str:
    if key["revoked_at"] is not None:
        return "revoked"
    expired = key["expires_at"] is not None and datetime.fromisoformat(key["expires_at"]) <= now
    return "expired" if expired else "valid"
