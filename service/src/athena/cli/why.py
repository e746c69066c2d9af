"""`athena why`: how a running proxy chooses for a model, and by which figures."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from athena.errors import AthenaError, UnauthorizedError, UnavailableError

if TYPE_CHECKING:
    import httpx

TIMEOUT_SECONDS = 15.0
_UNAUTHORIZED = 401


class ProxyAnswerError(AthenaError):
    """The proxy answered with an error."""


def why(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    proxy: Annotated[str, typer.Option(envvar="PROXY_URL", help="The proxy's address.")] = "http://localhost:8100",
    key: Annotated[
        str, typer.Option(envvar="PROXY_API_KEY", help="An API key, where the proxy asks for one.", show_default=False)
    ] = "",
) -> None:
    """Say to which engine prompts for a model go just now, by their length, and by which figures."""
    import httpx

    try:
        reply = httpx.get(
            proxy.rstrip("/") + "/athena/why",
            params={"model": model},
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT_SECONDS,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnavailableError(f"the proxy at {proxy} cannot be reached: {error}") from None
    for line in _lines(_found(reply, proxy)):
        typer.echo(line)


def _found(reply: "httpx.Response", proxy: str) -> dict[str, Any]:
    if reply.status_code == _UNAUTHORIZED:
        raise UnauthorizedError("the proxy asks for an API key: set PROXY_API_KEY or give --key")
    try:
        found: dict[str, Any] = reply.json()
    except ValueError:
        raise ProxyAnswerError(f"what answers at {proxy} is no proxy of Athena's") from None
    if not reply.is_success or "choices" not in found:
        said = found.get("error", {})
        message = said.get("message", "") if isinstance(said, dict) else str(said)
        raise ProxyAnswerError(f"the proxy answers {reply.status_code}: {message}")
    return found


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['model']}: {found['policy']}"]
    several = len(found["choices"]) > 1
    for choice in found["choices"]:
        length = f"up to {choice['up_to_bytes']} bytes" if choice["up_to_bytes"] is not None else "longer"
        lines.append(f"  {length + ': ' if several else ''}{choice['because']}")
        lines += [f"    {figure}" for figure in choice["figures"]]
    return lines
