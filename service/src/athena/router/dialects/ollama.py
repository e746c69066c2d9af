"""Ollama's dialect."""

import time
from collections.abc import Mapping
from typing import Any

from athena.errors import AthenaError
from athena.router.dialects import decoding, embeddings, ollama_replies, ollama_requests
from athena.router.dialects.base import ReplyEncoder, StreamReader
from athena.router.types import Dialect, Operation, Request, Usage


class OllamaCodec:
    """/api/chat, /api/generate and /api/embed; see Codec."""

    def peek(self, operation: Operation, body: bytes) -> tuple[decoding.Head, bool]:
        head = decoding.peek(body)
        return head, head.stream is not False and operation is not Operation.EMBED

    def decode_request(self, operation: Operation, body: bytes) -> Request:
        if operation is Operation.EMBED:
            return embeddings.decode(Dialect.OLLAMA, body)
        return ollama_requests.decode(operation, body)

    def encode_request(self, request: Request) -> bytes:
        if request.operation is Operation.EMBED:
            return embeddings.encode(Dialect.OLLAMA, request)
        return ollama_requests.encode(request)

    def reader(self, operation: Operation) -> StreamReader:
        return embeddings.Reader() if operation is Operation.EMBED else ollama_replies.Reader()

    def watch(self, operation: Operation) -> ollama_replies.Watch:
        return ollama_replies.Watch()

    def usage_of_reply(self, operation: Operation, body: bytes) -> Usage:
        return embeddings.usage_of(body) if operation is Operation.EMBED else ollama_replies.usage_of(body)

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
            return embeddings.Encoder(Dialect.OLLAMA, model, echo or {})
        return ollama_replies.Encoder(operation, model, started=time.perf_counter() if started is None else started)

    def encode_error(self, error: AthenaError) -> bytes:
        return ollama_replies.encode_error(error)
