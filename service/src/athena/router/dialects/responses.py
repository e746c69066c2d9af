"""OpenAI's Responses API, in its stateless form: of callers alone; towards engines it is OpenAI's chat."""

from collections.abc import Mapping
from typing import Any

from athena.router.dialects import responses_replies, responses_requests
from athena.router.dialects.base import ReplyEncoder
from athena.router.dialects.openai import OpenAICodec
from athena.router.types import Operation, Request


class ResponsesCodec(OpenAICodec):
    """/v1/responses; see Codec."""

    def decode_request(self, operation: Operation, body: bytes) -> Request:
        return responses_requests.decode(body)

    def encoder(
        self,
        operation: Operation,
        model: str,
        *,
        include_usage: bool = True,
        started: float | None = None,
        echo: Mapping[str, Any] | None = None,
    ) -> ReplyEncoder:
        return responses_replies.Encoder(model, echo or {})
