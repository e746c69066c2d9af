"""`athena serve`: one process of the system, as an HTTP server."""

import signal
import socket
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from athena.cli.environment import load
from athena.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from athena.ending import Ending


class Role(StrEnum):
    """The processes that the package can be."""

    ADMIN = "admin"
    PROXY = "proxy"
    ORCHESTRATOR = "orchestrator"
    AGENT = "agent"


DEFAULT_PORT = {Role.ADMIN: 8080, Role.PROXY: 8100, Role.ORCHESTRATOR: 8001, Role.AGENT: 8110}
Application = Literal[Role.ADMIN, Role.ORCHESTRATOR, Role.AGENT]


def serve(
    role: Annotated[Role, typer.Argument(help="Which process to be.")],
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="8080, 8100, 8001 or 8110 by role; 0: any.")
    ] = None,
    grace: Annotated[int, typer.Option(min=0, help="Seconds that open requests get to end on SIGTERM.")] = 20,
    wind_down: Annotated[
        int,
        typer.Option(min=0, help="Seconds before, in which each answer closes its connection, and no idle one ends."),
    ] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes of the proxy that share the port; PROXY_WORKERS or 1.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Of the agent: a file with the token, in place of ADMIN_API_TOKEN.")
    ] = None,
) -> None:
    """Run the Admin API, the model proxy, the orchestrator or a host's agent in the foreground until SIGTERM or Ctrl-C.

    The agent watches the engines that the file AGENT_CONFIG declares, and has those started anew that hang.

    Settings come from the environment; logs are JSON lines on standard output.
    """
    # Until uvicorn has its handlers, and again when it hands the signal back after its graceful end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from athena.ending import Ending
    from athena.observability import logs, tracing
    from athena.settings import LogSettings, TraceSettings

    lines, traces = load(LogSettings), load(TraceSettings)
    if workers is not None and role is not Role.PROXY:
        raise typer.BadParameter("only the proxy can have several", param_hint="--workers")
    if token_file is not None and role is not Role.AGENT:
        raise typer.BadParameter("only the agent takes one", param_hint="--token-file")
    run = _proxy(workers) if role is Role.PROXY else _runner(role, token_file)
    listener = _listen(host, DEFAULT_PORT[role] if port is None else port)
    logs.configure(role.value, lines.log_level, content=lines.athena_log_content == "redacted")
    if traces.wanted and role is not Role.AGENT:
        tracing.configure(role.value, queue=traces.otel_bsp_max_queue_size)
    run(listener, Ending(wind_down_seconds=wind_down, grace_seconds=grace))


def _runner(role: Application, token_file: Path | None) -> "Callable[[socket.socket, Ending], None]":
    """Read the role's settings, and return what serves its application on a socket, and ends as it is told."""
    make = _application(role, token_file)

    def run(listener: socket.socket, ending: "Ending") -> None:
        from athena.cli import http_server

        http_server.run(make(), listener, ending=ending)

    return run


def _proxy(workers: int | None) -> "Callable[[socket.socket, Ending], None]":
    from athena.proxy import process
    from athena.settings import ProxySettings

    settings = load(ProxySettings)
    count = settings.proxy_workers if workers is None else workers

    def run(listener: socket.socket, ending: "Ending") -> None:
        if not process.serve(settings, listener, ending=ending, workers=count):
            raise typer.Exit(1)

    return run


def _application(role: Application, token_file: Path | None) -> "Callable[[], Any]":
    """Read the role's settings, and return what makes its application."""
    from athena import settings

    match role:
        case Role.ADMIN:
            admin = load(settings.AdminSettings)
            from athena.admin.app import create_app as create_admin

            return lambda: create_admin(admin)
        case Role.ORCHESTRATOR:
            orchestrator = load(settings.OrchestratorSettings)
            from athena.orchestrator.app import create_app as create_orchestrator

            return lambda: create_orchestrator(orchestrator)
        case Role.AGENT:
            agent = load(settings.AgentSettings)
            from pydantic import SecretStr

            from athena.agent import configuration
            from athena.agent.app import create_app as create_agent
            from athena.cli.registry_client import token_of

            token = SecretStr(token_of(agent, token_file)) if token_file is not None else agent.admin_api_token
            engines = configuration.read(agent.agent_config)
            return lambda: create_agent(agent.model_copy(update={"admin_api_token": token}), engines)


def _listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; raises UnavailableError where the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UnavailableError(f"cannot listen on {host}:{port}: {error.strerror}; --port names another") from None
    return listener
