"""`athena backends drain`: engines out of the routes, and nobody at them any more."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from athena.cli.environment import load
from athena.errors import AthenaError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from athena.cli.draining import Seen
    from athena.cli.registry_client import RegistryClient

PAUSE_SECONDS = 0.5
PROXY_SECONDS = 5.0


def drain(
    endpoints: Annotated[list[str], typer.Argument(metavar="ENDPOINT…", help="Where the engines listen.")],
    proxies: Annotated[
        list[str] | None, typer.Option("--at", help="A proxy to wait for, http://HOST:PORT; once for each.")
    ] = None,
    within: Annotated[float, typer.Option(min=0, help="The longest wait, in seconds.")] = 300,
    token_file: Annotated[Path | None, typer.Option(help="A file with the token, in place of ADMIN_API_TOKEN.")] = None,
) -> None:
    """Disable the backends at these endpoints, wait until no proxy has a request there, and print what was changed.

    Where somebody is still there in the end, what was disabled is enabled again, and the command fails.
    """
    from athena.cli.registry_client import RegistryClient
    from athena.settings import ClientSettings

    client = RegistryClient(load(ClientSettings), token_file)
    wanted = {endpoint.rstrip("/") for endpoint in endpoints}
    rows = [row for row in client.list() if row["endpoint_url"].rstrip("/") in wanted]
    disabled: list[dict[str, Any]] = []
    began = time.monotonic()
    try:
        for row in rows:
            if row["enabled"]:
                client.set(row["id"], {"enabled": False})
                disabled.append(row)
        _wait(proxies or [], {row["id"] for row in rows}, client.version(), began + within)
    except AthenaError as error:
        raise type(error)(f"{error.detail}; {_enable(client, disabled)}") from None
    lines = [f"~ backend {row['model_name']} at {row['endpoint_url']}: enabled true becomes false" for row in disabled]
    seconds = round(time.monotonic() - began, 1)
    typer.echo(json.dumps({"changed": bool(lines), "changes": lines, "backends": len(rows), "seconds": seconds}))


def _wait(proxies: "Sequence[str]", backends: "Collection[int]", version: int, deadline: float) -> None:
    from athena.cli.draining import left

    while backends and (reasons := left({proxy: _look(proxy) for proxy in proxies}, backends, version)):
        if time.monotonic() + PAUSE_SECONDS > deadline:
            raise UnavailableError(f"not drained: {'; '.join(reasons)}")
        time.sleep(PAUSE_SECONDS)


def _look(proxy: str) -> "Seen | str":
    import httpx

    from athena.cli.draining import read

    try:
        answer = httpx.get(f"{proxy.rstrip('/')}/metrics", timeout=PROXY_SECONDS, trust_env=False)
        return read(answer.raise_for_status().text)
    except (httpx.HTTPError, ValueError) as error:
        return str(error)


def _enable(client: "RegistryClient", rows: "Sequence[dict[str, Any]]") -> str:
    """Enable what was disabled, and return how that went."""
    try:
        for row in rows:
            client.set(row["id"], {"enabled": True})
    except AthenaError as error:
        return f"and what was disabled could not be enabled again: {error.detail}"
    return "every backend is as it was"
