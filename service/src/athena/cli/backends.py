"""`athena backends`: the registry, over the Admin API of ADMIN_API_URL."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from athena.cli.changes import Read, change, whole_or_none
from athena.cli.declare import declare
from athena.cli.drain import drain
from athena.cli.environment import load
from athena.cli.words import columns

if TYPE_CHECKING:
    from athena.cli.registry_client import RegistryClient

backends = typer.Typer(
    name="backends",
    help="List and change the backends of the registry. Needs ADMIN_API_URL and ADMIN_API_TOKEN.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _truth(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(text)
    return text.lower() == "true"


def _text_or_none(text: str) -> str | None:
    return None if text.lower() == "none" else text


def _abilities_or_none(text: str) -> dict[str, Any] | None:
    """Return what `tools:true,images:false,context_tokens:8192` says; names are the Admin API's affair."""
    if text.lower() == "none":
        return None
    said: dict[str, Any] = {}
    for part in text.split(","):
        name, colon, value = part.strip().partition(":")
        if not (name and colon):
            raise ValueError(part)
        said[name] = int(value) if name == "context_tokens" else _truth(value)
    return said


FIELDS: dict[str, Read] = {
    "model_name": str,
    "backend_type": str,
    "endpoint_url": str,
    "enabled": _truth,
    "max_tokens": int,
    "temperature_default": float,
    "timeout_seconds": int,
    "description": str,
    "priority": int,
    "weight": int,
    "max_concurrency": whole_or_none,
    "max_queue": whole_or_none,
    "first_token_seconds": whole_or_none,
    "stall_seconds": whole_or_none,
    "capabilities": _abilities_or_none,
    "arm": _text_or_none,
}
KINDS: dict[Read, str] = {
    int: "a whole number",
    float: "a number",
    _truth: "true or false",
    whole_or_none: "a whole number, or none for the default",
    _abilities_or_none: "none, or what its model can do, as tools:true,images:false,context_tokens:8192",
    _text_or_none: "a word, or none",
}
COLUMNS = (
    ("ID", "id"),
    ("MODEL", "model_name"),
    ("TYPE", "backend_type"),
    ("ENDPOINT", "endpoint_url"),
    ("ENABLED", "enabled"),
    ("PRIORITY", "priority"),
    ("WEIGHT", "weight"),
    ("TOKENS/S", "avg_tokens_per_sec"),
    ("LATENCY_MS", "avg_latency_ms"),
    ("REQUESTS", "total_requests"),
    ("ERRORS", "total_errors"),
)

TokenFile = Annotated[Path | None, typer.Option(help="A file with the token, in place of ADMIN_API_TOKEN.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BackendId = Annotated[int, typer.Argument(metavar="ID", min=1)]


@backends.command("list")
def list_(
    enabled_only: Annotated[bool, typer.Option("--enabled-only", help="Leave out disabled ones.")] = False,
    as_json: AsJson = False,
    token_file: TokenFile = None,
) -> None:
    """Show every backend with its running figures."""
    _show(_client(token_file).list(enabled_only=enabled_only), as_json=as_json)


@backends.command()
def add(
    model: Annotated[str, typer.Argument(help="The model's name, as callers say it.")],
    *,
    backend_type: Annotated[str, typer.Option("--type", help="ollama, mlx, auto or openai.")],
    endpoint_url: Annotated[str, typer.Option("--url", help="Where the engine listens: http://HOST:PORT.")],
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of a reply where the caller does not say.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Temperature where the caller does not say.")] = None,
    timeout: Annotated[int | None, typer.Option(help="Seconds for a reply, or for a stream's first token.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    priority: Annotated[int | None, typer.Option(help="Place in the model's route; the lowest is first.")] = None,
    weight: Annotated[int | None, typer.Option(help="Share among backends of the same priority.")] = None,
    arm: Annotated[str | None, typer.Option(help="What it is compared as; canary: its share grows.")] = None,
    max_concurrency: Annotated[
        int | None, typer.Option(help="Requests that the engine works on at once, where not the engine's default.")
    ] = None,
    max_queue: Annotated[int | None, typer.Option(help="Requests that may wait for it.")] = None,
    first_token: Annotated[int | None, typer.Option(help="Seconds for a stream's first token, not --timeout.")] = None,
    stall: Annotated[int | None, typer.Option(help="Seconds between two tokens of a stream, not --timeout.")] = None,
    capabilities: Annotated[
        str | None, typer.Option(help="What its model can do, as tools:true,images:false,context_tokens:8192.")
    ] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Register it without using it yet.")] = False,
    as_json: AsJson = False,
    token_file: TokenFile = None,
) -> None:
    """Register a backend. A second one of a model needs --priority, --weight or --arm."""
    fields = {
        "model_name": model,
        "backend_type": backend_type,
        "endpoint_url": endpoint_url,
        "max_tokens": max_tokens,
        "temperature_default": temperature,
        "timeout_seconds": timeout,
        "description": description,
        "priority": priority,
        "weight": weight,
        "arm": arm,
        "max_concurrency": max_concurrency,
        "max_queue": max_queue,
        "first_token_seconds": first_token,
        "stall_seconds": stall,
        "capabilities": change(f"capabilities={capabilities}", FIELDS, KINDS)[1] if capabilities is not None else None,
        "enabled": not disabled,
    }
    said = {name: value for name, value in fields.items() if value is not None}
    _show([_client(token_file).add(said)], as_json=as_json)


@backends.command("set")
def set_(
    backend_id: BackendId,
    changes: Annotated[list[str], typer.Argument(metavar="FIELD=VALUE…", help=f"Fields: {', '.join(FIELDS)}.")],
    as_json: AsJson = False,
    token_file: TokenFile = None,
) -> None:
    """Change fields of a backend; the others stay as they are."""
    fields = dict(change(text, FIELDS, KINDS) for text in changes)
    _show([_client(token_file).set(backend_id, fields)], as_json=as_json)


@backends.command()
def toggle(backend_id: BackendId, as_json: AsJson = False, token_file: TokenFile = None) -> None:
    """Disable an enabled backend, enable a disabled one."""
    _show([_client(token_file).toggle(backend_id)], as_json=as_json)


@backends.command()
def rm(backend_id: BackendId, token_file: TokenFile = None) -> None:
    """Delete a backend; its model is then served by the rest of its route, or by the default Ollama."""
    _client(token_file).remove(backend_id)
    typer.echo(f"removed backend {backend_id}")


backends.command()(declare)
backends.command()(drain)


def _client(token_file: Path | None) -> "RegistryClient":
    from athena.cli.registry_client import RegistryClient
    from athena.settings import ClientSettings

    return RegistryClient(load(ClientSettings), token_file)


def _show(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    lines = [[title for title, _ in COLUMNS]]
    lines += [[_cell(row.get(name)) for _, name in COLUMNS] for row in rows]
    for line in columns(lines):
        typer.echo(line)


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
    return str(value)
