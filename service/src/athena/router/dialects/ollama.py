"""Ollama's dialect."""

import time
from collections.abc import Mapping
from typing import Any

from athena.errors import AthenaError
from athena.router.dialects import decoding, ollama_replies, ollama_requests
from athena.router.types import Operation, Request, Usage


class OllamaCodec:
    """/api/chat and /api/generate; see Codec."""

    def peek(self, operation: Operation, body: bytes) -> tuple[str, bool]:
        return decoding.peek(body, stream_default=True)

    def decode_request(self, operation: Operation, body: bytes) -> Request:
        return ollama_requests.decode(operation, body)

    def encode_request(self, request: Request) -> bytes:
        return ollama_requests.encode(request)

    def reader(self, operation: Operation) -> ollama_replies.Reader:
        return ollama_replies.Reader()

    def watch(self, operation: Operation) -> ollama_replies.Watch:
        return ollama_replies.Watch()

    def usage_of_reply(self, operation: Operation, body: bytes) -> Usage:
        return ollama_replies.usage_of(body)

    def encoder(
        self,
        operation: Operation,
        model: str,
        *,
        include_usage: bool = True,
        started: float | None = None,
        echo: Mapping[str, Any] | None = None,
    ) -> ollama_replies.Encoder:
        return ollama_replies.Encoder(operation, model, started=time.perf_counter() if started is None else started)

    def encode_error(self, error: AthenaError) -> bytes:
        return ollama_replies.encode_error(error)
