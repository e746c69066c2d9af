"""OpenAI's dialect."""

from collections.abc import Mapping
from typing import Any

from athena.errors import AthenaError
from athena.router.dialects import decoding, openai_replies, openai_requests
from athena.router.dialects.base import ReplyEncoder, StreamReader
from athena.router.types import Operation, Request, Usage


class OpenAICodec:
    """Chat completions and legacy completions; see Codec."""

    def peek(self, operation: Operation, body: bytes) -> tuple[str, bool]:
        return decoding.peek(body, stream_default=False)

    def decode_request(self, operation: Operation, body: bytes) -> Request:
        return openai_requests.decode(operation, body)

    def encode_request(self, request: Request) -> bytes:
        return openai_requests.encode(request)

    def reader(self, operation: Operation) -> StreamReader:
        return openai_replies.Reader()

    def watch(self, operation: Operation) -> openai_replies.Watch:
        return openai_replies.Watch()

    def usage_of_reply(self, operation: Operation, body: bytes) -> Usage:
        return openai_replies.usage_of(body)

    def encoder(
        self,
        operation: Operation,
        model: str,
        *,
        include_usage: bool = True,
        started: float | None = None,
        echo: Mapping[str, Any] | None = None,
    ) -> ReplyEncoder:
        return openai_replies.Encoder(operation, model, include_usage=include_usage)

    def encode_error(self, error: AthenaError) -> bytes:
        return openai_replies.encode_error(error)
