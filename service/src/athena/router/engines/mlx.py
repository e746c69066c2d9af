"""`mlx_lm.server`: the OpenAI dialect with traps. Facts of version 0.32.2; tests hold them against the real one."""

from http import HTTPStatus

from athena.router.call import Call
from athena.router.dialects import codec
from athena.router.engines import rendering
from athena.router.engines.base import Rendered
from athena.router.errors import BackendError, FailureKind
from athena.router.types import Backend, BackendType, Dialect, Operation, Request

# The name under which the server knows the model that it was started with. Any other one, the model's own path
# included, unloads that model and may start a download.
MODEL = "default_model"
_PATHS = {Operation.CHAT: "/v1/chat/completions", Operation.GENERATE: "/v1/completions"}
_TAKEN = frozenset({"chat_template_kwargs", "logit_bias"})


class MlxEngine:
    """An `mlx_lm.server` with one model.

    Its reply is always read as a stream, whatever the caller wants: only a streaming request notices that its caller
    has left, and a request that fails half way is told from one that ends.
    """

    type = BackendType.MLX
    dialect = Dialect.OPENAI

    def render(self, call: Call, backend: Backend) -> Rendered:
        request = call.request
        _refuse(request)
        body = codec(Dialect.OPENAI).encode_request(rendering.with_defaults(request, backend, model=MODEL))
        return Rendered(path=_PATHS[call.operation], body=body, passthrough=False)

    def failure(self, status: int, body: bytes) -> BackendError | None:
        error = rendering.failure(status, body)
        if error is not None and status == HTTPStatus.NOT_FOUND:
            # Any failure to start is 404, so the model may well be there.
            return BackendError(FailureKind.STATUS, error.detail, upstream_status=status)
        return error


def _refuse(request: Request) -> None:
    """Raise BackendError(UNSUITABLE) where the server would ignore a part of the request, or be harmed by it."""
    if request.operation is Operation.GENERATE and not (request.prompt or request.system):
        raise rendering.unsuitable("an empty prompt ends the generation thread of mlx_lm.server for good")
    if request.operation is Operation.CHAT and not request.messages:
        raise rendering.unsuitable("mlx_lm.server needs at least one message")
    if request.response_schema is not None:
        raise rendering.unsuitable("mlx_lm.server would ignore the response format")
    if any(message.images for message in request.messages):
        raise rendering.unsuitable("mlx_lm.server would ignore the images, or fetch them itself")
    rendering.refuse_ignored(request, "mlx_lm.server", known=_TAKEN)
