"""Any server that speaks OpenAI's API: vLLM, llama.cpp, LiteLLM, …"""

from typing import ClassVar

import msgspec

from athena.router.body import Body
from athena.router.call import Call
from athena.router.dialects import codec, openai_requests
from athena.router.dialects.decoding import ABSENT, raw_fields
from athena.router.engines import rendering
from athena.router.engines.base import Rendered
from athena.router.errors import BackendError
from athena.router.types import Backend, BackendType, Dialect, Operation, Request

_PATHS = {
    Operation.CHAT: "/v1/chat/completions",
    Operation.GENERATE: "/v1/completions",
    Operation.EMBED: "/v1/embeddings",
}


# Extra fields that are passed on where the reply is translated. Others of OpenAI's ask for what the reply would then
# have no place for: several answers, probabilities, the prompt itself.
_TAKEN_ANYWHERE = frozenset({"guided_json", "ignore_eos", "logit_bias", "min_tokens", "user"})
_TAKEN = {
    Operation.CHAT: _TAKEN_ANYWHERE
    | {"chat_template_kwargs", "parallel_tool_calls", "reasoning_effort", "think", "tool_choice"},
    Operation.GENERATE: _TAKEN_ANYWHERE,
}


class OpenAIEngine:
    """A server of OpenAI's API."""

    type: ClassVar[BackendType] = BackendType.OPENAI
    dialect: ClassVar[Dialect] = Dialect.OPENAI

    def render(self, call: Call, backend: Backend) -> Rendered:
        path = _PATHS[call.operation]
        if call.dialect is Dialect.OPENAI:
            embeds = call.operation is Operation.EMBED
            passed, rest = (call.body, None) if embeds else _with_defaults(call, backend)
            return Rendered(path=path, body=passed, rest=rest, passthrough=True)
        request = call.request
        if call.operation is Operation.EMBED:
            rendering.refuse_ignored(request, "an OpenAI-compatible server", known=("dimensions", "user"))
            return Rendered(path=path, body=codec(Dialect.OPENAI).encode_request(request), passthrough=False)
        if not (request.prompt or request.messages):
            raise rendering.unsuitable(
                "only Ollama takes an empty prompt, which loads or unloads a model",
                field="messages" if request.operation is Operation.CHAT else "prompt",
            )
        rendering.refuse_ignored(request, "an OpenAI-compatible server", known=_TAKEN[request.operation])
        body = codec(Dialect.OPENAI).encode_request(rendering.with_defaults(_adapt(request), backend))
        return Rendered(path=path, body=body, passthrough=False)

    def failure(self, status: int, body: bytes) -> BackendError | None:
        return rendering.failure(status, body)


def _adapt(request: Request) -> Request:
    """Say in OpenAI's own way how much to think; whether to think at all is its server's chat template's affair."""
    if request.operation is not Operation.CHAT or "think" not in request.extra:
        return request
    extra = {name: value for name, value in request.extra.items() if name != "think"}
    effort = rendering.effort_of(request)
    if isinstance(effort, str):
        extra["reasoning_effort"] = effort
    else:
        extra["chat_template_kwargs"] = rendering.template_arguments(request)
    return msgspec.structs.replace(request, extra=extra)


def _with_defaults(call: Call, backend: Backend) -> Body:
    """Put the backend's defaults before the caller's fields; a null of the caller's after them would take them back."""
    body, head = call.body, call.head
    if head.temperature is ABSENT and head.max_tokens is ABSENT and head.max_completion_tokens is ABSENT:
        return rendering.splice(body, {"temperature": backend.temperature_default, "max_tokens": backend.max_tokens})
    said = openai_requests.said(body)
    defaults: dict[str, float] = {}
    if said.temperature is None:
        defaults["temperature"] = backend.temperature_default
    if said.max_tokens is None and said.max_completion_tokens is None:
        defaults["max_tokens"] = backend.max_tokens
    if defaults and b"null" in body:
        return msgspec.json.encode({**raw_fields(body), **defaults}), None
    return rendering.splice(body, defaults)
