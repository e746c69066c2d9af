"""Embeddings in both dialects: requests and replies, read and written. A reply is always whole."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from struct import pack
from typing import Annotated, Any, Literal

import msgspec

from athena.errors import AthenaError
from athena.router.dialects.decoding import BAD_JSON, Count, convert, fields_of, present
from athena.router.errors import BackendError, FailureKind, RequestRejectedError
from athena.router.types import Delta, Dialect, Event, Finish, Operation, Request, Usage

_Texts = str | Annotated[list[Any], msgspec.Meta(min_length=1)]


class _OpenAI(msgspec.Struct, kw_only=True):
    model: str
    input: _Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Count | None = None


class _Ollama(msgspec.Struct, kw_only=True):
    """`prompt` is the older path's word; `options` say how to run the model, or to write text."""

    model: str
    input: _Texts | None = None
    prompt: str | None = None
    dimensions: Count | None = None
    options: dict[str, Any] | None = None


def decode(dialect: Dialect, body: bytes) -> Request:
    """See Codec.decode_request. `echo` holds the form in which the vectors are to be written."""
    fields = fields_of(body)
    if dialect is Dialect.OPENAI:
        asked = convert(fields, _OpenAI)
        return _request(asked, fields, asked.input, {"encoding_format": asked.encoding_format})
    wanted = convert(fields, _Ollama)
    if wanted.input is not None:
        return _request(wanted, fields, wanted.input, {})
    if wanted.prompt is None:
        raise RequestRejectedError("input: needed, a text or a list of texts", field="input")
    return _request(wanted, fields, wanted.prompt, {"one": True})


def _request(
    asked: _OpenAI | _Ollama, fields: Mapping[str, Any], said: str | list[Any], echo: dict[str, Any]
) -> Request:
    texts = [said] if isinstance(said, str) else said
    if not all(isinstance(text, str) for text in texts):
        raise RequestRejectedError("input: tokens are not served here; send text", field="input")
    extra = {name: value for name, value in fields.items() if name not in asked.__struct_fields__}
    return Request(
        operation=Operation.EMBED,
        model=asked.model,
        inputs=texts,
        extra=extra | present(dimensions=asked.dimensions),
        echo=echo,
    )


def encode(dialect: Dialect, request: Request) -> bytes:
    """See Codec.encode_request."""
    passed = ("dimensions", "user") if dialect is Dialect.OPENAI else ("keep_alive", "truncate")
    extra = {name: value for name, value in request.extra.items() if name in passed}
    return msgspec.json.encode({"model": request.model, "input": request.inputs, **extra})


class _Counted(msgspec.Struct):
    prompt_tokens: int = 0


class _Vector(msgspec.Struct):
    """`embedding` is text where a caller of OpenAI's API asked for base64: of 32-bit floats, so four signs at least."""

    embedding: list[float] | Annotated[str, msgspec.Meta(min_length=4)]
    index: int = 0


class _Reply(msgspec.Struct):
    """A reply of either dialect, or of Ollama's older path."""

    data: list[_Vector] | None = None
    embeddings: list[list[float]] | None = None
    embedding: list[float] | None = None
    usage: _Counted | None = None
    prompt_eval_count: int = 0

    def vectors(self) -> list[list[float]]:
        if self.data is not None:
            return [_numbers(vector.embedding) for vector in sorted(self.data, key=lambda vector: vector.index)]
        return self.embeddings or ([self.embedding] if self.embedding else [])

    def counts(self) -> Usage:
        return Usage(prompt_tokens=self.usage.prompt_tokens if self.usage else self.prompt_eval_count)


_REPLY = msgspec.json.Decoder(_Reply)


def _numbers(vector: list[float] | str) -> list[float]:
    """Return a vector as numbers; one in base64, for which no engine is asked in a caller's place, is not taken."""
    if isinstance(vector, str):
        raise BackendError(FailureKind.MALFORMED, "a vector in base64 where numbers were asked for")
    return vector


def _read(body: bytes) -> _Reply:
    try:
        reply = _REPLY.decode(body)
    except BAD_JSON as error:
        raise BackendError(FailureKind.MALFORMED, f"a reply that has no embeddings: {error}") from error
    if reply.data is None and reply.embeddings is None and reply.embedding is None:
        raise BackendError(FailureKind.MALFORMED, "a reply that has no embeddings")
    written = [vector.embedding for vector in reply.data] if reply.data is not None else reply.vectors()
    if not written or not all(written):
        raise BackendError(FailureKind.EMPTY, "a reply without a vector")
    return reply


def usage_of(body: bytes) -> Usage:
    """See Codec.usage_of_reply."""
    return _read(body).counts()


class Reader:
    """Reads a reply, which is no stream: its events come at its end; see StreamReader."""

    def __init__(self) -> None:
        self.grew = False
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> Sequence[Event]:
        self._pieces.append(data)
        return ()

    def end(self) -> Sequence[Event]:
        body = b"".join(self._pieces)
        if not body:
            raise BackendError(FailureKind.EMPTY, "a reply without a body")
        reply = _read(body)
        return Delta(vectors=tuple(reply.vectors())), Finish(reason="stop", usage=reply.counts())


class Encoder:
    """Writes a reply; see ReplyEncoder. Nothing streams it."""

    content_type = b"application/json"

    def __init__(self, dialect: Dialect, model: str, echo: Mapping[str, Any]) -> None:
        self._dialect = dialect
        self._model = model
        self._echo = echo

    def start(self) -> bytes:
        return b""

    def delta(self, event: Delta) -> bytes:
        raise AssertionError("embeddings are no stream")

    def finish(self, event: Finish) -> bytes:
        raise AssertionError("embeddings are no stream")

    def broken(self, error: AthenaError) -> bytes:
        raise AssertionError("embeddings are no stream")

    def whole(self, events: Sequence[Event]) -> bytes:
        vectors = [vector for event in events if isinstance(event, Delta) for vector in event.vectors]
        tokens = next(event for event in reversed(events) if isinstance(event, Finish)).usage.prompt_tokens
        if self._dialect is Dialect.OPENAI:
            data = [
                {"object": "embedding", "index": index, "embedding": self._written(vector)}
                for index, vector in enumerate(vectors)
            ]
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            return msgspec.json.encode({"object": "list", "data": data, "model": self._model, "usage": usage})
        if self._echo.get("one"):
            return msgspec.json.encode({"embedding": vectors[0] if vectors else []})
        return msgspec.json.encode({"model": self._model, "embeddings": vectors, "prompt_eval_count": tokens})

    def _written(self, vector: list[float]) -> list[float] | str:
        """Write a vector as numbers or, as OpenAI's client asks for, as the base64 of 32-bit floats."""
        if self._echo.get("encoding_format") != "base64":
            return vector
        return b64encode(pack(f"<{len(vector)}f", *vector)).decode()
