"""Where the router's configuration comes from: the Admin API, or whatever else a program hands in."""

import math
from collections.abc import Iterable
from typing import Protocol, TypeVar
from urllib.parse import quote

import msgspec

from athena.errors import UnavailableError
from athena.router.errors import BackendError
from athena.router.types import ApiKey, Backend, Edition, Snapshot
from athena.router.upstream import Reply, UpstreamClient

LOOK_UP_SECONDS = 2.0
LOAD_SECONDS = 10.0
_OK, _NOT_FOUND = 200, 404
_T = TypeVar("_T")


class SourceError(UnavailableError):
    """The registry cannot be reached, or does not answer as it should."""

    title = "Registry out of reach"
    code = "registry_out_of_reach"


class Source(Protocol):
    """Something that knows the registry. Every method raises SourceError where it is out of reach."""

    @property
    def whole_table(self) -> bool:
        """Whether `load` can be used; otherwise every model is looked up by itself."""
        ...

    async def load(self) -> Snapshot:
        """Return the whole registry at one version; only where `whole_table` is true."""
        ...

    async def look_up(self, model: str) -> tuple[Backend, ...]:
        """Return the backends of one model, within about 2 s; empty if it has none."""
        ...

    async def changed(self, known: Edition, wait: float) -> Edition:
        """Return the registry's edition: at once if it is another than the known one, otherwise after at most `wait` s.

        Its version may be less than the known one, that of a database that was restored; where nobody tells of which
        database it is, such a one is told when the wait is over.
        """
        ...


class _Route(msgspec.Struct):
    """What matters of the answer for one model: all its backends."""

    route: tuple[Backend, ...]


class AdminSource:
    """The Admin API over HTTP. With a token the whole table is loaded; without, models are looked up one by one.

    `keys` says that the API keys of callers are wanted as well, which takes a token.
    """

    def __init__(self, upstream: UpstreamClient, *, url: str, token: str | None, keys: bool = False) -> None:
        self._keys = keys
        self._upstream = upstream
        self._url = url
        self._headers = {"authorization": f"Bearer {token}"} if token is not None else {}

    @property
    def whole_table(self) -> bool:
        """Whether there is a token."""
        return bool(self._headers)

    async def load(self) -> Snapshot:
        """Return every backend, and the keys where they are wanted."""
        reply = await self._get("/api/llm-backends", within=LOAD_SECONDS, headers=self._headers)
        backends, version = _decode(reply, list[Backend]), _version(reply)
        keys = None
        if self._keys:
            reply = await self._get("/api/api-keys/digests", within=LOAD_SECONDS, headers=self._headers)
            if reply.status != _NOT_FOUND:  # as an Admin API from before there were keys answers
                keys = _decode(reply, tuple[ApiKey, ...])
                # A change between the two is loaded again.
                version = min(version, _version(reply))
        return Snapshot(version=version, routes=by_model(backends), complete=True, keys=keys)

    async def look_up(self, model: str) -> tuple[Backend, ...]:
        """Return the backends of one model by the endpoint that needs no token."""
        reply = await self._get(f"/api/llm-backends/model/{quote(model, safe='')}", within=LOOK_UP_SECONDS)
        if reply.status == _NOT_FOUND:
            return ()
        return tuple(_normal(backend) for backend in _decode(reply, _Route).route)

    async def changed(self, known: Edition, wait: float) -> Edition:
        """Ask by long poll."""
        path = f"/api/llm-backends/changes?after={known.version}&wait={math.ceil(wait)}"
        if known.database:  # which only an Admin API tells that can be asked for it
            path += f"&database={quote(known.database, safe='')}"
        return _decode(await self._get(path, within=math.ceil(wait) + LOAD_SECONDS), Edition)

    async def _get(self, path: str, *, within: float, headers: dict[str, str] | None = None) -> Reply:
        try:
            return await self._upstream.get(self._url + path, headers=headers, within=within)
        except BackendError as error:
            raise SourceError(f"the Admin API at {self._url} does not answer: {error.detail}") from error


def by_model(backends: Iterable[Backend]) -> dict[str, tuple[Backend, ...]]:
    """Return the backends of each model in the order of its route."""
    routes: dict[str, tuple[Backend, ...]] = {}
    for backend in sorted(backends, key=lambda backend: (backend.priority, backend.id or 0)):
        routes[backend.model_name] = (*routes.get(backend.model_name, ()), _normal(backend))
    return routes


def _normal(backend: Backend) -> Backend:
    return msgspec.structs.replace(backend, endpoint_url=backend.endpoint_url.rstrip("/"))


def _version(reply: Reply) -> int:
    version = reply.headers.get("x-registry-version", "")
    if not version.isdecimal():
        raise SourceError("the Admin API does not say at which version its table is (X-Registry-Version)")
    return int(version)


def _decode(reply: Reply, type_: type[_T]) -> _T:
    if reply.status != _OK:
        raise SourceError(f"the Admin API answers {reply.status}: {reply.body[:200].decode(errors='replace')}")
    try:
        return msgspec.json.decode(reply.body, type=type_)
    except msgspec.MsgspecError as error:
        raise SourceError(f"the Admin API's answer is not understood: {error}") from error
