"""The models that the proxy offers: those of the registry, and those of the default Ollama while it can be reached."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from time import monotonic
from typing import Any

import msgspec

from athena.errors import NotFoundError
from athena.proxy.caller import Caller
from athena.proxy.http import Answer, error_answer, json_answer
from athena.router.errors import BackendError
from athena.router.models import is_served
from athena.router.snapshot import Configuration
from athena.router.types import Dialect
from athena.router.upstream import UpstreamClient

_CACHE_SECONDS = 5.0
_OLLAMA_SECONDS = 1.0
NO_DETAILS: Mapping[str, Any] = {
    "parent_model": "",
    "format": "",
    "family": "",
    "families": None,
    "parameter_size": "",
    "quantization_level": "",
}


class _Tags(msgspec.Struct):
    models: list[dict[str, Any]] | None = None


class Models:
    """Lists models. What the default Ollama has is asked at most every few seconds, and with a short limit."""

    def __init__(self, configuration: Configuration, upstream: UpstreamClient, ollama_url: str | None) -> None:
        """`ollama_url` is None where there is no default Ollama."""
        self._configuration = configuration
        self._upstream = upstream
        self._ollama_url = ollama_url
        self._asking = asyncio.Lock()
        self._asked = -_CACHE_SECONDS
        self._of_ollama: list[dict[str, Any]] | None = None
        self._since = datetime.now(UTC)

    @property
    def has_default(self) -> bool:
        """Whether there is a default Ollama, which has models that are not registered."""
        return self._ollama_url is not None

    async def of_ollama(self) -> list[dict[str, Any]] | None:
        """Return the default Ollama's models as its /api/tags has them; None if there is none, or no answer."""
        async with self._asking:
            if monotonic() - self._asked >= _CACHE_SECONDS:
                self._of_ollama = await self._ask()
                self._asked = monotonic()
            return self._of_ollama

    async def _ask(self) -> list[dict[str, Any]] | None:
        if self._ollama_url is None:
            return None
        try:
            reply = await self._upstream.get(f"{self._ollama_url}/api/tags", within=_OLLAMA_SECONDS)
            if reply.status != HTTPStatus.OK:
                return None
            return [
                model
                for model in msgspec.json.decode(reply.body, type=_Tags).models or []
                if isinstance(model.get("name"), str)
            ]
        except (BackendError, msgspec.MsgspecError):
            return None

    async def tags(self, caller: Caller) -> Answer:
        """Return the answer of /api/tags: the models that the caller may use."""
        models = [model for name, model in (await self._listed()).items() if caller.may_use(name)]
        return json_answer({"models": models}, *self._completeness())

    async def list(self, caller: Caller) -> Answer:
        """Return the answer of /v1/models: those that the caller may use."""
        data = [_openai(name, model) for name, model in (await self._listed()).items() if caller.may_use(name)]
        return json_answer({"object": "list", "data": data}, *self._completeness())

    async def show(self, name: str, caller: Caller) -> Answer:
        """Return the answer of /v1/models/NAME; raises ModelNotAllowedError."""
        caller.check_model(name)
        model = (await self._listed()).get(name)
        if model is None and not self._configuration.snapshot.complete:
            await self._configuration.route(name)
            if is_served(self._configuration.snapshot, name):
                model = self._registered(name)
        if model is None:
            error = NotFoundError(f"The model {name!r} is neither registered nor in the default Ollama.", field="model")
            return error_answer(Dialect.OPENAI, error)
        return json_answer(_openai(name, model))

    async def _listed(self) -> dict[str, dict[str, Any]]:
        """Return each model as /api/tags has it, by name: the registry's first."""
        snapshot = self._configuration.snapshot
        of_ollama = {model["name"]: model for model in await self.of_ollama() or []}
        listed = {
            name: of_ollama.get(name) or self._registered(name)
            for name in sorted(snapshot.routes)
            if is_served(snapshot, name)
        }
        return listed | {name: model for name, model in of_ollama.items() if name not in listed}

    def _registered(self, name: str) -> dict[str, Any]:
        """Return the entry of a model of which only the name is known.

        The digest is the name's own, for clients that print its first characters; the time is the proxy's start.
        """
        digest = sha256(name.encode()).hexdigest()
        modified = self._since.isoformat().replace("+00:00", "Z")
        return {
            "name": name,
            "model": name,
            "modified_at": modified,
            "size": 0,
            "digest": digest,
            "details": NO_DETAILS,
        }

    def _completeness(self) -> tuple[bytes, ...]:
        return () if self._configuration.snapshot.complete else (b"x-athena-models: incomplete",)


def _openai(name: str, model: Mapping[str, Any]) -> dict[str, Any]:
    try:
        created = int(datetime.fromisoformat(str(model.get("modified_at"))).timestamp())
    except ValueError:
        created = 0
    return {"id": name, "object": "model", "created": created, "owned_by": "athena"}
