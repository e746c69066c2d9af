"""Ollama, by its own API; its OpenAI-compatible routes lack `keep_alive` and ignore a part of what they are sent."""

from typing import Any, ClassVar

import msgspec

from athena.router.body import Body
from athena.router.call import Call
from athena.router.dialects import codec
from athena.router.dialects.decoding import decode, raw_fields
from athena.router.dialects.ollama_requests import PASSED_ON, tells_likelihood
from athena.router.engines import rendering
from athena.router.engines.base import Rendered
from athena.router.errors import BackendError
from athena.router.types import Backend, BackendType, Dialect, Operation, Request

_PATHS = {Operation.CHAT: "/api/chat", Operation.GENERATE: "/api/generate", Operation.EMBED: "/api/embed"}
_EMBED_ONE = "/api/embeddings"
_OF_PROMPTS = frozenset({"context", "images", "raw", "suffix", "template"})  # /api/chat has none of them
# `OneCall` sees to a reply with no more than one call of a tool.
_TAKEN = {
    Operation.CHAT: PASSED_ON - _OF_PROMPTS | {"options", "parallel_tool_calls", "reasoning_effort"},
    Operation.GENERATE: PASSED_ON | {"options", "reasoning_effort"},
}


# Of a chat of the OpenAI API. An Ollama from before version 0.12.11 drops them: `Likelihood` finds out by its reply.
_LIKELIHOOD = frozenset({"logprobs", "top_logprobs"})


class _Said(msgspec.Struct):
    """What of a body decides whether a default has to be put in."""

    options: dict[str, msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


_SAID = msgspec.json.Decoder(_Said)


class OllamaEngine:
    """A server of Ollama's API."""

    type: ClassVar[BackendType] = BackendType.OLLAMA
    dialect: ClassVar[Dialect] = Dialect.OLLAMA

    def render(self, call: Call, backend: Backend) -> Rendered:
        path = _PATHS[call.operation]
        if call.operation is Operation.EMBED:
            return _embed(call, path)
        if call.dialect is Dialect.OLLAMA:
            passed, rest = _with_default_options(call.body, backend)
            return Rendered(path=path, body=passed, rest=rest, passthrough=True)
        request = rendering.with_choice(call.request)
        known = _TAKEN[request.operation]
        if call.dialect is Dialect.OPENAI and call.operation is Operation.CHAT and tells_likelihood(request):
            known |= _LIKELIHOOD
        rendering.refuse_ignored(request, "Ollama", known=known)
        for index, message in enumerate(request.messages):
            if message.name is not None:
                field = f"messages.{index}.name"
                raise rendering.unsuitable(f"Ollama would ignore {field}", field=field)
        body = codec(Dialect.OLLAMA).encode_request(_with_defaults(_adapt(request), backend))
        return Rendered(path=path, body=body, passthrough=False)

    def failure(self, status: int, body: bytes) -> BackendError | None:
        return rendering.failure(status, body)


def _embed(call: Call, path: str) -> Rendered:
    request = call.request
    if call.dialect is Dialect.OLLAMA:
        # The older path does not make its vector one of length 1.
        return Rendered(path=_EMBED_ONE if request.echo.get("one") else path, body=call.body, passthrough=True)
    rendering.refuse_ignored(request, "Ollama", known=("keep_alive", "truncate"))
    return Rendered(path=path, body=codec(Dialect.OLLAMA).encode_request(request), passthrough=False)


def _adapt(request: Request) -> Request:
    """Say in Ollama's own way whether to think: how much is known to few of its models, and the others fail over it."""
    if "think" in request.extra or (effort := rendering.effort_of(request)) is None:
        return request
    return msgspec.structs.replace(request, extra={**request.extra, "think": bool(effort)})


def _with_defaults(request: Request, backend: Backend) -> Request:
    """Put in the backend's defaults; what an option says is said, though it is in Ollama's own way."""
    options: dict[str, Any] = request.extra.get("options", {})
    said, filled = request.sampling, rendering.with_defaults(request, backend)
    sampling = msgspec.structs.replace(
        filled.sampling,
        temperature=said.temperature if options.get("temperature") is not None else filled.sampling.temperature,
        max_tokens=said.max_tokens if options.get("num_predict") is not None else filled.sampling.max_tokens,
    )
    return msgspec.structs.replace(filled, sampling=sampling)


def _with_default_options(body: bytes, backend: Backend) -> Body:
    """Put the backend's defaults where the caller said nothing; the body stays as it is where it said all."""
    said = decode(_SAID, body).options
    defaults: dict[str, Any] = {"temperature": backend.temperature_default, "num_predict": backend.max_tokens}
    if said is msgspec.UNSET:
        return rendering.splice(body, {"options": defaults})
    options: dict[str, Any] = dict(said or {})
    missing = {name: value for name, value in defaults.items() if bytes(options.get(name, b"null")) == b"null"}
    if not missing:
        return body, None
    return msgspec.json.encode({**raw_fields(body), "options": options | missing}), None
