"""What Ollama's API tells of models beside their names: which are loaded, and what one is made of."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from time import monotonic
from typing import Any, NamedTuple

import msgspec

from athena.errors import NotFoundError
from athena.proxy.caller import Caller
from athena.proxy.http import JSON, Answer, fields, json_answer
from athena.proxy.models import NO_DETAILS
from athena.router.dialects.decoding import decode
from athena.router.dispatch import Dispatcher
from athena.router.errors import BackendError, RequestRejectedError
from athena.router.judging.needs import Need
from athena.router.models import is_served
from athena.router.needing import capabilities_of
from athena.router.routes import Door
from athena.router.snapshot import Configuration
from athena.router.types import BackendType, Snapshot
from athena.router.upstream import UpstreamClient

_CACHE_SECONDS = 1.0
_OLLAMA_SECONDS = 2.0
_CAPABILITIES = {Need.TOOLS: "tools", Need.IMAGES: "vision", Need.EMBEDDINGS: "embedding"}


class _Loaded(msgspec.Struct):
    models: list[dict[str, Any]] | None = None


class _Holdings(NamedTuple):
    """The models that are loaded, by name, and whether all Ollamas have told."""

    models: Mapping[str, dict[str, Any]]
    complete: bool


class _Asked(msgspec.Struct):
    """`name` is what older clients say."""

    model: str = ""
    name: str = ""
    verbose: bool | None = None


_ASKED = msgspec.json.Decoder(_Asked)


class OllamaModels:
    """Asks the Ollamas behind the proxy; which models are loaded at most once a second."""

    def __init__(
        self, configuration: Configuration, dispatcher: Dispatcher, upstream: UpstreamClient, *, ollama_url: str | None
    ) -> None:
        """`ollama_url` is None where there is no default Ollama."""
        self._configuration = configuration
        self._dispatcher = dispatcher
        self._upstream = upstream
        self._ollama_url = ollama_url
        self._asking = asyncio.Lock()
        self._asked_at = -_CACHE_SECONDS
        self._loaded = _Holdings({}, complete=True)

    async def ps(self, caller: Caller) -> Answer:
        """Return the answer of /api/ps: of each registered model that an Ollama of its route holds, and all others
        that the default Ollama does, as far as the caller may use them.
        """
        async with self._asking:
            if monotonic() - self._asked_at >= _CACHE_SECONDS:
                self._loaded = await self._ask()
                self._asked_at = monotonic()
            held = self._loaded
        return json_answer(
            {"models": [held.models[name] for name in sorted(held.models) if caller.may_use(name)]},
            *(() if held.complete else (b"x-athena-models: incomplete",)),
        )

    async def show(self, body: bytes, caller: Caller) -> Answer:
        """Return the answer of /api/show: that of the first Ollama of the model's route which has it.

        Of a registered model that no Ollama shows there is only what is known of it. Raises NotFoundError,
        RequestRejectedError where no model is named, and ModelNotAllowedError.
        """
        asked = decode(_ASKED, body)
        model = asked.model or asked.name
        if not model:
            raise RequestRejectedError("model: Name the model.", field="model")
        caller.check_model(model)
        doors = await self._dispatcher.doors(model)
        question = msgspec.json.encode({"model": model, "verbose": bool(asked.verbose)})
        for door in doors:
            if door.target.engine is BackendType.OLLAMA:
                try:
                    reply = await self._upstream.post(
                        f"{door.target.endpoint_url}/api/show", question, within=_OLLAMA_SECONDS
                    )
                except BackendError:
                    continue
                if reply.status == HTTPStatus.OK:
                    return Answer(body=reply.body, fields=fields(JSON))
        if not is_served(self._configuration.snapshot, model):
            raise NotFoundError(f"model '{model}' not found", field="model")
        return json_answer(_known(doors))

    async def _ask(self) -> _Holdings:
        snapshot = self._configuration.snapshot
        named = _names(snapshot, self._ollama_url)
        found = await asyncio.gather(*(self._loaded_at(url) for url in named))
        listed: dict[str, dict[str, Any]] = {}
        for (url, names), loaded in zip(named.items(), found, strict=True):
            for entry in loaded or []:
                name = entry["name"]
                called = [one for one in names if _full(one) == name]
                if not called and url == self._ollama_url:
                    called = [name]
                for one in called:
                    listed.setdefault(one, {**entry, "name": one, "model": one})
        return _Holdings(listed, complete=snapshot.complete and None not in found)

    async def _loaded_at(self, url: str) -> list[dict[str, Any]] | None:
        """Return what an Ollama holds; None where it does not say."""
        try:
            reply = await self._upstream.get(f"{url}/api/ps", within=_OLLAMA_SECONDS)
            if reply.status != HTTPStatus.OK:
                return None
            models = msgspec.json.decode(reply.body, type=_Loaded).models or []
        except (BackendError, msgspec.MsgspecError):
            return None
        return [entry for entry in models if isinstance(entry.get("name"), str)]


def _names(snapshot: Snapshot, ollama_url: str | None) -> dict[str, list[str]]:
    """Return the registered models of each Ollama, by its address; the default one, if there is one, comes last."""
    named: dict[str, list[str]] = {}
    default: list[str] = []
    for model, backends in snapshot.routes.items():
        for backend in backends:
            if backend.enabled and backend.backend_type is BackendType.OLLAMA and backend.endpoint_url != ollama_url:
                named.setdefault(backend.endpoint_url, []).append(model)
            elif backend.enabled and backend.backend_type in {BackendType.OLLAMA, BackendType.AUTO}:
                default.append(model)
    return named if ollama_url is None else {**named, ollama_url: default}


def _full(model: str) -> str:
    """Return a name as Ollama completes it."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


def _known(doors: list[Door]) -> Mapping[str, Any]:
    """Return what is known of a model that no Ollama shows, as one would say it."""
    known = [capabilities_of(door) for door in doors]
    able = [word for need, word in _CAPABILITIES.items() if any(one.can.get(need) for one in known)]
    contexts = [one.context_tokens for one in known if one.context_tokens is not None]
    # Ollama's own command looks for these four wherever there is any; 0 is what nobody knows.
    info: dict[str, Any] = {
        "general.architecture": "unknown",
        "general.parameter_count": 0,
        "unknown.embedding_length": 0,
        "unknown.context_length": max(contexts, default=0),
    }
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": NO_DETAILS,
        "model_info": info if contexts else {},  # LlamaIndex takes null ill, and any number for the context
        "capabilities": ["completion", *able],
        "modified_at": datetime.now(UTC).isoformat(),
    }
