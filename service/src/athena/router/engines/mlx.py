"""`mlx_lm.server`: the OpenAI dialect with traps. Facts of version 0.32.2; tests hold them against the real one."""

from http import HTTPStatus
from typing import Any, ClassVar

import msgspec

from athena.router.call import Call
from athena.router.dialects import codec
from athena.router.dialects.decoding import arguments_of
from athena.router.engines import rendering
from athena.router.engines.base import Rendered
from athena.router.errors import BackendError, FailureKind
from athena.router.types import Backend, BackendType, Dialect, Operation, Request

# The name under which the server knows the model that it was started with. Any other one, the model's own path
# included, unloads that model and may start a download.
MODEL = "default_model"
_PATHS = {Operation.CHAT: "/v1/chat/completions", Operation.GENERATE: "/v1/completions"}
# Extra fields that a template is told of; a prompt is continued without one. `OneCall` sees to `parallel_tool_calls`.
_TAKEN = {
    Operation.CHAT: frozenset({"chat_template_kwargs", "parallel_tool_calls", "reasoning_effort", "think"}),
    Operation.GENERATE: frozenset(),
}
# By what name the callers of each dialect ask for a form of the answer.
_FORM_FIELDS = {
    Dialect.OLLAMA: "format",
    Dialect.OPENAI: "response_format",
    Dialect.RESPONSES: "text.format",
    None: "response_schema",
}
# What a template may be told. Any other argument, such as another template or a greatest length, is one of the function
# that fills it in: it may leave no prompt at all.
_TEMPLATE_ARGUMENTS = frozenset({"enable_thinking", "reasoning_effort", "thinking"})
# A `top_k` beyond the model's vocabulary ends the generation thread for good, and so does a `logit_bias` for a token
# beyond it. Every byte-level vocabulary has this many tokens.
_SMALLEST_VOCABULARY = 256
_SEEDS = 2**63


class MlxEngine:
    """An `mlx_lm.server` with one model.

    Its reply is always read as a stream, whatever the caller wants: only a streaming request notices that its caller
    has left, and a request that fails half way is told from one that ends.
    """

    type: ClassVar[BackendType] = BackendType.MLX
    dialect: ClassVar[Dialect] = Dialect.OPENAI

    def render(self, call: Call, backend: Backend) -> Rendered:
        request = call.request
        if request.operation is Operation.EMBED:
            field = "prompt" if request.echo.get("one") else "input"
            raise rendering.unsuitable("mlx_lm.server makes no embeddings", field=field)
        request = rendering.with_choice(request)
        _refuse(request, call.dialect)
        body = codec(Dialect.OPENAI).encode_request(_adapt(rendering.with_defaults(request, backend, model=MODEL)))
        return Rendered(path=_PATHS[call.operation], body=body, passthrough=False)

    def failure(self, status: int, body: bytes) -> BackendError | None:
        error = rendering.failure(status, body)
        if error is not None and status == HTTPStatus.NOT_FOUND:
            # Any failure to start is 404, so the model may well be there.
            return BackendError(FailureKind.STATUS, error.detail, upstream_status=status, own_words=error.own_words)
        return error


def _refuse(request: Request, dialect: Dialect | None) -> None:
    """Raise BackendError(UNSUITABLE) where the server would ignore a part of the request, or be harmed by it."""
    if request.operation is Operation.GENERATE and not request.prompt:
        raise rendering.unsuitable(
            "an empty prompt ends the generation thread of mlx_lm.server for good", field="prompt"
        )
    if request.operation is Operation.CHAT and not request.messages:
        raise rendering.unsuitable("mlx_lm.server needs at least one message", field="messages")
    if request.response_schema is not None:
        raise rendering.unsuitable("mlx_lm.server would ignore the response format", field=_FORM_FIELDS[dialect])
    for index, message in enumerate(request.messages):
        if message.images:
            # The items of a response's input are no messages.
            in_messages = f"messages.{index}.{'images' if dialect is Dialect.OLLAMA else 'content'}"
            field = "input" if dialect is Dialect.RESPONSES else in_messages
            raise rendering.unsuitable("mlx_lm.server would ignore the images, or fetch them itself", field=field)
        for number, called in enumerate(message.tool_calls):
            arguments_of(index, number, called.arguments)  # it reads them, and answers 404 where it cannot
    if (request.sampling.top_k or 0) > _SMALLEST_VOCABULARY:
        raise rendering.unsuitable(
            f"a top_k above {_SMALLEST_VOCABULARY} may end mlx_lm.server's generation thread",
            field="options.top_k" if dialect is Dialect.OLLAMA else "top_k",
        )
    template = rendering.template_arguments(request)
    if others := sorted(template.keys() - _TEMPLATE_ARGUMENTS):
        raise rendering.unsuitable(
            f"mlx_lm.server may be harmed by {', '.join(others)} for its chat template",
            field=f"chat_template_kwargs.{others[0]}",
        )
    rendering.refuse_ignored(request, "mlx_lm.server", known=_TAKEN[request.operation])


def _adapt(request: Request) -> Request:
    """Say in the server's own way what it takes in a narrower form, or by another name."""
    said = request.sampling
    # Below 0: elsewhere, -1 stands for no seed and for no top_k.
    seed = None if said.seed is None or said.seed == -1 else said.seed % _SEEDS
    top_k = None if said.top_k is None or said.top_k < 0 else said.top_k
    template = rendering.template_arguments(request)
    extra: dict[str, Any] = {}
    if request.operation is Operation.CHAT and template:
        extra["chat_template_kwargs"] = template
    return msgspec.structs.replace(request, sampling=msgspec.structs.replace(said, seed=seed, top_k=top_k), extra=extra)
