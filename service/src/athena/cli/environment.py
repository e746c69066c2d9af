"""What commands share of their surroundings: settings, the database's errors, logging."""

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import typer

from athena.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic_settings import BaseSettings

    Settings = TypeVar("Settings", bound=BaseSettings)
else:
    Settings = TypeVar("Settings")

WRONG_SETTINGS = 2

# What to look at where nobody answered at the address that a variable names.
KEPT_OUT = "see that it is up, that {} has its address, and that the network lets this machine or pod connect"
# The first follows every refusal of the system's, the second is psycopg's.
NO_CONNECTION = ("Is the server running on that host", "failed to resolve host")

WRONG = {"missing": "is not set", "string_pattern_mismatch": "is not of the right form"}
EXPECTED = {
    "database_url": "postgresql://USER:PASSWORD@HOST:PORT/NAME",
    "admin_api_token": "the installation's token, at least 16 characters",
    "jwt_secret": "a random secret of at least 32 characters, for example from `openssl rand -hex 32`",
    "admin_api_url": "the Admin API's address, such as http://localhost:8080",
    "ollama_url": "the default Ollama's address, such as http://localhost:11434, or none",
    "router_state_file": "a path that this process may write",
    "connect_seconds": "a number of seconds from 0 to 600",
    "config_cache_seconds": "a number of seconds above 0 and at most 3600",
    "queue_seconds": "a number of seconds above 0 and at most 3600",
    "router_auto_policy": "mlx_first or measured",
    "proxy_url": "http:// or https:// and a host",
    "router_host_policy": "warm_among_equals, warm or weighted",
    "proxy_api_keys_file": "the path of a file of API keys",
    "proxy_ask_for_keys": "true, together with ADMIN_API_TOKEN, or false",
    "proxy_workers": "a number of processes from 1 to 64",
    "redis_url": "redis://HOST:PORT/DB",
    "orchestrator_intents_file": "the path of a table of intents",
    "agent_config": "the path of the file that declares this host's engines",
    "agent_state_file": "a path that this process may write",
    "log_level": "debug, info, warning or error",
    "otel_exporter_otlp_endpoint": "the address of a receiver of OTLP over HTTP, such as http://localhost:4318",
    "otel_exporter_otlp_traces_endpoint": "the whole address for traces, such as http://localhost:4318/v1/traces",
    "otel_exporter_otlp_protocol": "http/protobuf, the one that is spoken here",
    "otel_exporter_otlp_traces_protocol": "http/protobuf, the one that is spoken here",
    "otel_traces_exporter": "otlp or none",
    "otel_sdk_disabled": "true or false",
    "otel_bsp_max_queue_size": "a number of spans from 1 to 1000000",
    "athena_log_content": "off or redacted",
}


def load(settings: type[Settings]) -> Settings:
    """Return the settings of this class; end the command with status 2 and a line per variable that is wrong.

    The value of a variable is never shown: it may be a secret.
    """
    from pydantic import ValidationError

    try:
        return settings()
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            name = str(fault["loc"][0]) if fault["loc"] else "settings"
            wrong = WRONG.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
            remedy = f"; set it to {EXPECTED[name]}" if name in EXPECTED else ""
            typer.echo(f"{name.upper()}: {wrong}{remedy}", err=True)
        raise typer.Exit(WRONG_SETTINGS) from None


@contextmanager
def database_errors(url: str) -> "Iterator[None]":
    """Turn what the database at `url` refuses into an UnavailableError of one line, which shows no password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        fault = " ".join(str(error.orig).split())
        if got_no_connection(error):
            asked = make_url(url)
            fault += f" (asked: {asked.host}:{asked.port or 5432}); {KEPT_OUT.format('DATABASE_URL')}"
        raise UnavailableError(f"the database cannot be used: {fault}") from None


def got_no_connection(error: Exception) -> bool:
    """Return whether the database's address refused a connection, was silent or was not found.

    libpq has no code for it. Its own words are the same everywhere: only the server's are in the server's language.
    """
    from psycopg.errors import ConnectionTimeout
    from sqlalchemy.exc import OperationalError

    if not isinstance(error, OperationalError):
        return False
    return isinstance(error.orig, ConnectionTimeout) or any(words in str(error.orig) for words in NO_CONNECTION)


def log_to_standard_error(*, warnings: bool = True) -> None:
    """Send the library's errors and warnings to standard error: standard output is the command's answer alone."""
    import logging
    import sys

    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, pad_level=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if warnings else logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
