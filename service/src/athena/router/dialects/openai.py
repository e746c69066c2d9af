"""OpenAI's dialect."""

from collections.abc import Mapping
from typing import Any

from athena.errors import AthenaError
from athena.router.dialects import decoding, embeddings, openai_replies, openai_requests
from athena.router.dialects.base import ReplyEncoder, StreamReader
from athena.router.types import Dialect, Operation, Request, Usage


class OpenAICodec:
    """Chat completions, legacy completions and embeddings; see Codec."""

    def peek(self, operation: Operation, body: bytes) -> tuple[decoding.Head, bool]:
        head = decoding.peek(body)
        return head, bool(head.stream) and operation is not Operation.EMBED

    def decode_request(self, operation: Operation, body: bytes) -> Request:
        if operation is Operation.EMBED:
            return embeddings.decode(Dialect.OPENAI, body)
        return openai_requests.decode(operation, body)

    def encode_request(self, request: Request) -> bytes:
        if request.operation is Operation.EMBED:
            return embeddings.encode(Dialect.OPENAI, request)
        return openai_requests.encode(request)

    def reader(self, operation: Operation) -> StreamReader:
        return embeddings.Reader() if operation is Operation.EMBED else openai_replies.Reader()

    def watch(self, operation: Operation) -> openai_replies.Watch:
        return openai_replies.Watch()

    def usage_of_reply(self, operation: Operation, body: bytes) -> Usage:
        return embeddings.usage_of(body) if operation is Operation.EMBED else openai_replies.usage_of(body)

    def encoder(
        self,
        operation: Operation,
        model: str,
        *,
        include_usage: bool = True,
        started: float | None = None,
        echo: Mapping[str, Any] | None = None,
    ) -> ReplyEncoder:
        if operation is Operation.EMBED:
            return embeddings.Encoder(Dialect.OPENAI, model, echo or {})
        return openai_replies.Encoder(operation, model, include_usage=include_usage)

    def encode_error(self, error: AthenaError) -> bytes:
        return openai_replies.encode_error(error)
