"""What changes which models an Ollama has, for administrators: pull, push, create, copy and delete.

The request goes as it is to one Ollama, to that one alone, and the answer comes back as it is.
"""

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from time import perf_counter
from typing import NamedTuple

import msgspec
import structlog

from athena.errors import AthenaError, UnavailableError
from athena.observability import identity
from athena.proxy.caller import Caller
from athena.proxy.callers import Callers
from athena.proxy.http import JSON, InternalError, error_answer, show
from athena.proxy.server.errors import ShuttingDownError
from athena.proxy.server.exchange import Exchange
from athena.router.dialects import codec
from athena.router.dialects.decoding import decode
from athena.router.errors import BackendError, NoBackendError, RequestRejectedError
from athena.router.snapshot import Configuration
from athena.router.types import BackendType, Dialect, Snapshot
from athena.router.upstream import UpstreamClient

CHANGES: Mapping[str, str] = {
    "/api/pull": "POST",
    "/api/push": "POST",
    "/api/create": "POST",
    "/api/copy": "POST",
    "/api/delete": "DELETE",
}
"""The paths of Ollama's API that change models, each with its method."""

BACKEND_HEADER = b"x-athena-backend-id"
SILENT_SECONDS = 900.0
"""The longest that an Ollama which tells how far it is may say nothing: it reads a large model once more at its end."""
WHOLE_SECONDS = 6 * 3600.0
"""The longest that a change may take of which the caller wants to hear its end alone."""

_HEADER = BACKEND_HEADER.decode()
_DEFAULT = "default"
_UNCACHED = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
log = structlog.get_logger()


class _Asked(msgspec.Struct):
    """The models that a change is about, by all the names that the five have for them; older clients say `name`."""

    model: str = ""
    name: str = ""
    source: str = ""
    destination: str = ""
    made_of: str = msgspec.field(default="", name="from")
    stream: bool | None = None

    @property
    def names(self) -> list[str]:
        """The models that are named, each once."""
        said = (self.model or self.name, self.source, self.destination, self.made_of)
        return list(dict.fromkeys(name for name in said if name))


_ASKED = msgspec.json.Decoder(_Asked)


class Host(NamedTuple):
    """An Ollama: its address, and the backend by which it goes, a row's id or `default`."""

    url: str
    backend: str


def host_of(snapshot: Snapshot, ollama_url: str | None, named: str | None) -> Host:
    """Return the Ollama that is meant: the one that is named, otherwise the only one there is. Pure.

    Disabled backends count: one may want to bring a model to a host before it takes part. Raises RequestRejectedError,
    which lists the choices. `ollama_url` is None where there is no default one.
    """
    rows = {
        str(backend.id): backend.endpoint_url
        for backends in snapshot.routes.values()
        for backend in backends
        if backend.backend_type is BackendType.OLLAMA
    }
    choices = _choices(rows, ollama_url)
    if named is not None:
        url = ollama_url if named == _DEFAULT else rows.get(named)
        if url is None:
            raise RequestRejectedError(
                f"{_HEADER}: no Ollama is called {named!r}; there are {_listed(choices)}.",
                field=_HEADER,
            )
        return Host(url, named)
    if not choices:
        raise RequestRejectedError("There is no Ollama whose models could be changed.")
    if len(choices) > 1:
        raise RequestRejectedError(
            f"There are several Ollamas; name one in the header {_HEADER}: {_listed(choices)}.", field=_HEADER
        )
    return choices[0]


def _choices(rows: Mapping[str, str], ollama_url: str | None) -> list[Host]:
    """Return the Ollamas, each once: the default one, if there is one, others by the first backend that is there."""
    found = {ollama_url: _DEFAULT} if ollama_url is not None else {}
    for backend in sorted(rows, key=int):
        found.setdefault(rows[backend], backend)
    return [Host(url, backend) for url, backend in found.items()]


def _listed(choices: Sequence[Host]) -> str:
    return ", ".join(f"{host.backend} ({host.url})" for host in choices) or "none"


class _Change:
    """One request for a change, and what becomes of it."""

    __slots__ = ("asked", "caller", "error", "exchange", "host")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.asked = _Asked()
        self.caller: Caller | None = None
        self.host: Host | None = None
        self.error = ""

    def fail(self, error: AthenaError) -> None:
        """Tell the caller of an error, whether or not the answer has begun."""
        self.error = error.detail
        exchange = self.exchange
        if not exchange.answered:
            show(exchange, error_answer(Dialect.OLLAMA, error))
        else:
            exchange.write(codec(Dialect.OLLAMA).encode_error(error) + b"\n")
            exchange.abort()


class ModelChanges:
    """Passes changes on. Each is asked for once, of one engine: what has failed may have been done in part."""

    def __init__(
        self, configuration: Configuration, upstream: UpstreamClient, callers: Callers, *, ollama_url: str | None
    ) -> None:
        """`ollama_url` is None where there is no default Ollama."""
        self._configuration = configuration
        self._upstream = upstream
        self._callers = callers
        self._ollama_url = ollama_url

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request, whatever happens on the way."""
        change = _Change(exchange)
        try:
            await self._pass_on(change)
        except BackendError as error:
            where = change.host.url if change.host is not None else ""
            change.fail(
                NoBackendError(f"The Ollama at {where} failed: {error.detail}.", attempts=((where, error.detail),))
            )
        except AthenaError as error:
            change.fail(error)
        except asyncio.CancelledError:
            change.error = "the caller left"
            if not exchange.gone:
                exchange.close_after()
                change.fail(ShuttingDownError("This server is being shut down; ask again.", retry_after=1))
            raise
        except Exception:
            log.exception(
                "unexpected_error", method=exchange.method, path=exchange.path, request_id=exchange.identity.decode()
            )
            change.fail(InternalError("The proxy failed on this request; its log has the cause."))
        finally:
            _tell(change)

    async def _pass_on(self, change: _Change) -> None:
        exchange = change.exchange
        change.caller = caller = self._callers.administrator(exchange)
        body, exchange.body = exchange.body, b""
        change.asked = asked = decode(_ASKED, body)
        for name in asked.names:
            caller.check_model(name)
        change.host = host = self._host(exchange)
        reply = self._upstream.start_change(
            host.url + exchange.path,
            body,
            delete=exchange.method == "DELETE",
            fields=identity.field(exchange.identity.decode()),
            within=WHOLE_SECONDS,
        )
        if asked.stream is not False:
            reply.set_idle_limit(SILENT_SECONDS)
        try:
            await reply.head()
            exchange.begin(
                reply.status,
                b"content-type: %b\r\nx-request-id: %b\r\nx-athena-backend: ollama\r\n%b: %b\r\n%b"
                % (reply.content_type or JSON, exchange.identity, BACKEND_HEADER, host.backend.encode(), _UNCACHED),
            )
            exchange.regulate(reply.pause, reply.resume)

            def pass_on(data: bytes) -> bool:
                if b'{"error":' in data:
                    change.error = "the engine tells of an error"
                exchange.write(data)
                return True

            await reply.push(pass_on)
            exchange.end()
            if reply.status >= HTTPStatus.BAD_REQUEST:  # a refusal, in the engine's own words
                change.error = f"status {reply.status}"
        finally:
            reply.close()

    def _host(self, exchange: Exchange) -> Host:
        snapshot = self._configuration.snapshot
        named = exchange.header(BACKEND_HEADER)
        if not snapshot.complete and named != _DEFAULT.encode():
            raise UnavailableError(
                "This proxy has not been told yet which Ollamas there are; ask again.", retry_after=1
            )
        return host_of(snapshot, self._ollama_url, named.decode("latin-1").strip() if named is not None else None)


def _tell(change: _Change) -> None:
    """Write what an administrator has asked for, and how it went; refusals of others are no news."""
    if change.caller is None:
        return
    exchange = change.exchange
    write = log.warning if change.error else log.info
    write(
        "models_change_completed",
        change=exchange.path.removeprefix("/api/"),
        model=change.asked.model or change.asked.name or change.asked.source,
        caller=change.caller.name,
        backend_id=change.host.backend if change.host is not None else None,
        endpoint=change.host.url if change.host is not None else None,
        duration=round(perf_counter() - exchange.started, 3),
        request_id=exchange.identity.decode(),
        **({"error": change.error} if change.error else {}),
    )
