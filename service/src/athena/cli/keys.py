"""`athena keys`: the API keys of the model proxy's callers, over the Admin API of ADMIN_API_URL."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from athena.cli.changes import Read, change, whole_or_none
from athena.cli.environment import load
from athena.cli.words import columns

if TYPE_CHECKING:
    from athena.cli.registry_client import RegistryClient

keys = typer.Typer(
    name="keys",
    help="Make, list, change and revoke API keys of the model proxy. Needs ADMIN_API_URL and ADMIN_API_TOKEN.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _names_or_all(text: str) -> list[str] | None:
    return None if text.lower() == "all" else _names(text)


FIELDS: dict[str, Read] = {
    "scopes": _names,
    "models": _names_or_all,
    "requests_per_minute": whole_or_none,
    "tokens_per_minute": whole_or_none,
}
KINDS: dict[Read, str] = {whole_or_none: "a whole number, or none for no limit"}
TITLES = ("ID", "NAME", "KEY", "STATE", "SCOPES", "MODELS", "REQUESTS/MIN", "TOKENS/MIN", "CREATED", "EXPIRES", "USED")
KeyId = Annotated[int, typer.Argument(metavar="ID", min=1, help="As `athena keys list` shows it.")]
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
    _show(found, as_json=as_json)


@keys.command("set")
def set_(
    key_id: KeyId,
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="FIELD=VALUE…",
            help="scopes=prompts,embeddings; models=phi3:mini,org/name:8b or all; requests_per_minute=60 or none; "
            "tokens_per_minute=20000 or none.",
        ),
    ],
    as_json: AsJson = False,
    token_file: TokenFile = None,
) -> None:
    """Change what a key is bound to, and nothing that is not named; running proxies hold to it at once."""
    fields = dict(change(text, FIELDS, KINDS) for text in changes)
    _show([_client(token_file).change_key(key_id, fields)], as_json=as_json)


@keys.command()
def revoke(
    key_id: KeyId,
    token_file: TokenFile = None,
) -> None:
    """Have a key hold no more, for good; running proxies refuse it at once."""
    revoked = _client(token_file).revoke_key(key_id)
    typer.echo(f"revoked key {key_id} of {revoked['name']}, {revoked['prefix']}…")


def _show(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    now = datetime.now(UTC)
    for line in columns([TITLES, *(_cells(key, now) for key in found)]):
        typer.echo(line)


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
