"""OpenAI's replies: streams of server-sent events and whole bodies, read and written."""

import time
from collections.abc import Sequence
from typing import Any, cast
from uuid import uuid4

import msgspec

from athena.errors import AthenaError
from athena.router.dialects.decoding import BAD_JSON
from athena.router.dialects.lines import LINE_LIMIT, LineBuffer, Tail, reported, too_long
from athena.router.errors import BackendError, FailureKind
from athena.router.types import Delta, Event, Finish, FinishReason, Operation, ToolCall, Usage, WrittenToken

DONE = b"[DONE]"
_TAIL = 4 * 1024  # bytes; the finish chunk, the usage chunk and the end mark fit in
_MARK = -6  # where to look for the brace that ends a chunk, however its lines end; the end mark has none
_REASONS = {"stop", "length", "tool_calls", "content_filter"}


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None
    id: str | None = None
    index: int | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: str | None = None
    message: Any = None


_CHUNK = msgspec.json.Decoder(_Chunk)


def _chunk(data: bytes) -> _Chunk:
    try:
        chunk = _CHUNK.decode(data)
    except BAD_JSON as error:
        raise BackendError(FailureKind.MALFORMED, f"an event that is not OpenAI's: {error}") from error
    if chunk.error is not None or chunk.object == "error":  # the latter is vLLM's older form
        raise reported(error_message(chunk.error or chunk.message))
    return chunk


def error_message(error: object) -> str:
    """Return the sentence in an error of this dialect, whichever of its usual forms it has."""
    if isinstance(error, dict):
        return str(error.get("message") or error.get("detail") or error)
    return str(error)


def _usage(usage: _Usage | None) -> Usage:
    if usage is None:
        return Usage()
    details = usage.prompt_tokens_details
    return Usage(
        prompt_tokens=usage.prompt_tokens or 0,
        completion_tokens=usage.completion_tokens or 0,
        cached_tokens=(details.cached_tokens or 0) if details else 0,
    )


def _data_of(line: bytes) -> bytes | None:
    """Return the data of one line of an event stream; None for comments, blank lines and other fields."""
    return line[5:].strip() if line.startswith(b"data:") else None


class Reader:
    """Reads a stream; see StreamReader. Tool calls come in fragments and are given out whole, at the finish."""

    def __init__(self) -> None:
        self._lines = LineBuffer()
        self._data: list[bytes] = []
        self._size = 0
        self._calls: dict[int, ToolCall] = {}
        self._reason: FinishReason = "stop"
        self._usage = Usage()
        self._ended = False
        self.grew = False

    @property
    def calls(self) -> bool:
        """Whether a tool call has begun that is not given out yet."""
        return bool(self._calls)

    def feed(self, data: bytes) -> Sequence[Event]:
        events: list[Event] = []
        self.grew = False
        for line in self._lines.feed(data):
            if self._ended:
                break
            piece = _data_of(line)
            if piece == DONE:  # alone, and so certain that its blank line need not be awaited
                self._dispatch(events)
                self._finish(events)
            elif piece is not None:
                self._data.append(piece)
                self._size += len(piece)
                if self._size > LINE_LIMIT:
                    raise too_long()
            elif not line.strip():
                self._dispatch(events)
        return events

    def end(self) -> Sequence[Event]:
        if self._ended:
            return ()
        if _data_of(self._lines.rest()) != DONE:
            raise BackendError(FailureKind.EMPTY, "the stream ended without [DONE]")
        return self.feed(b"\n")

    def _dispatch(self, events: list[Event]) -> None:
        """Take the event that a blank line has completed."""
        if self._data:
            data = b"\n".join(self._data)
            self._data.clear()
            self._size = 0
            self._take(_chunk(data), events)

    def _finish(self, events: list[Event]) -> None:
        self._ended = True
        self._give_out_calls(events)
        events.append(Finish(reason=self._reason, usage=self._usage))

    def _give_out_calls(self, events: list[Event]) -> None:
        if self._calls:
            events.append(Delta(tool_calls=tuple(self._calls.values())))
            self._calls = {}

    def _take(self, chunk: _Chunk, events: list[Event]) -> None:
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
        for choice in chunk.choices or []:
            delta = choice.delta or _Delta(content=choice.text)
            text, thinking = delta.content or "", delta.reasoning or delta.reasoning_content or ""
            if text or thinking:
                events.append(Delta(text=text, thinking=thinking))
            for position, fragment in enumerate(delta.tool_calls or []):
                self._gather(position if fragment.index is None else fragment.index, fragment)
            if choice.finish_reason is not None:
                known = choice.finish_reason in _REASONS
                self._reason = cast("FinishReason", choice.finish_reason) if known else "stop"
                self._give_out_calls(events)

    def _gather(self, index: int, fragment: _ToolCall) -> None:
        self.grew = True
        call = self._calls.setdefault(index, ToolCall(name="", arguments=""))
        call.id = fragment.id or call.id
        if fragment.function is not None:
            call.name += fragment.function.name or ""
            call.arguments += fragment.function.arguments or ""


class Watch:
    """Watches a stream that is passed through; see StreamWatch."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._tail = Tail(_TAIL)
        self._begun = False
        self.ended = False

    def feed(self, data: bytes) -> bool:
        self._tail.feed(data)
        if data.find(b"}", _MARK) < 0:
            self.ended = self._at_end()
        if not self._begun:
            self._begun = bool(self._reader.feed(data)) or self._reader.calls
        elif data.find(b'"error"') >= 0:  # `in` costs more, by a TypeError that it raises and drops
            _raise_error(data.split(b"\n"))
        return self._begun

    def end(self) -> Usage | None:
        lines = self._tail.lines()
        _raise_error(lines)  # one that came in two pieces
        pieces = [piece for piece in map(_data_of, lines) if piece]
        if not pieces or pieces[-1] != DONE:
            raise BackendError(FailureKind.EMPTY, "the stream ended without [DONE]")
        for piece in reversed(pieces[:-1]):
            if b'"usage"' in piece and (chunk := _chunk_or_none(piece)) and chunk.usage is not None:
                return _usage(chunk.usage)
        return None

    def _at_end(self) -> bool:
        """Return whether the last event that is there as a whole is the end mark."""
        match self._tail.lines():
            case [*_, mark, blank, b""]:
                return not blank.strip() and _data_of(mark) == DONE
        return False


def _chunk_or_none(data: bytes) -> _Chunk | None:
    """Return the chunk; None for a line that is no whole one. Raises BackendError where it reports an error."""
    try:
        return _chunk(data)
    except BackendError as error:
        if error.kind is not FailureKind.MALFORMED:
            raise
        return None


def _raise_error(lines: Sequence[bytes]) -> None:
    """Raise the error that one of the lines reports; no text of a model has these bytes, for its quotes are escaped."""
    for line in lines:
        if line.find(b'"error"') >= 0 and (piece := _data_of(line)):
            _chunk_or_none(piece)


def usage_of(body: bytes) -> Usage:
    """See Codec.usage_of_reply."""
    chunk = _chunk(body)
    if not chunk.choices:
        raise BackendError(FailureKind.EMPTY, "a reply without choices")
    return _usage(chunk.usage)


class Encoder:
    """Writes one reply; see ReplyEncoder."""

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, operation: Operation, model: str, *, include_usage: bool) -> None:
        self._chat = operation is Operation.CHAT
        self._include_usage = include_usage
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid4().hex}",
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._calls = 0
        # A chunk with nothing but text differs from the next in its text alone.
        before, after = self._event(self._choice({"content": "\0"}, "\0", None)).rsplit(b'"\\u0000"', 1)
        self._before, self._after = before, after

    def start(self) -> bytes:
        return self._event(self._choice({"role": "assistant", "content": ""}, "", None)) if self._chat else b""

    def delta(self, event: Delta) -> bytes:
        if not event.tool_calls and not event.thinking and not event.tokens:
            return self._before + msgspec.json.encode(event.text) + self._after
        fields = self._message(event.text, event.thinking, event.tool_calls)
        return self._event(self._choice(fields, event.text, None, event.tokens))

    def finish(self, event: Finish) -> bytes:
        end = self._event(self._choice({}, "", self._reason(event)))
        if self._include_usage:
            end += self._event({"choices": [], "usage": _written(event.usage)})
        return end + b"data: [DONE]\n\n"

    def broken(self, error: AthenaError) -> bytes:
        return b"data: " + encode_error(error) + b"\n\n"

    def whole(self, events: Sequence[Event]) -> bytes:
        deltas = [event for event in events if isinstance(event, Delta)]
        finish = next(event for event in reversed(events) if isinstance(event, Finish))
        text = "".join(delta.text for delta in deltas)
        tokens = [token for delta in deltas for token in delta.tokens]
        choice: dict[str, Any] = {"index": 0, "logprobs": _logprobs(tokens), "finish_reason": None}
        if self._chat:
            calls = tuple(call for delta in deltas for call in delta.tool_calls)
            message = self._message(text, "".join(delta.thinking for delta in deltas), calls)
            for call in message.get("tool_calls", []):
                del call["index"]  # only fragments of a stream are numbered
            choice["message"] = {"role": "assistant", "content": text or (None if calls else ""), **message}
        else:
            choice["text"] = text
        choice["finish_reason"] = self._reason(finish)
        kind = "chat.completion" if self._chat else "text_completion"
        body = {**self._head, "object": kind, "choices": [choice], "usage": _written(finish.usage)}
        return msgspec.json.encode(body)

    def _reason(self, finish: Finish) -> FinishReason:
        return "tool_calls" if self._calls and finish.reason == "stop" else finish.reason

    def _message(self, text: str, thinking: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
        fields: dict[str, Any] = {"content": text} if text else {}
        if thinking:
            # The two names that clients look for; OpenAI itself shows no reasoning text.
            fields |= {"reasoning": thinking, "reasoning_content": thinking}
        if calls:
            fields["tool_calls"] = [
                {
                    "index": self._calls + number,
                    "id": call.id or f"call_{uuid4().hex[:24]}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for number, call in enumerate(calls)
            ]
            self._calls += len(calls)
        return fields

    def _choice(
        self, delta: dict[str, Any], text: str, reason: FinishReason | None, tokens: Sequence[WrittenToken] = ()
    ) -> dict[str, Any]:
        said: dict[str, Any] = {"delta": delta} if self._chat else {"text": text}
        return {"choices": [{"index": 0, **said, "logprobs": _logprobs(tokens), "finish_reason": reason}]}

    def _event(self, fields: dict[str, Any]) -> bytes:
        return b"data: " + msgspec.json.encode({**self._head, **fields}) + b"\n\n"


def _logprobs(tokens: Sequence[WrittenToken]) -> dict[str, Any] | None:
    """Return how likely tokens were in the form of a chat; nobody may ask for them in that of a legacy completion."""
    return {"content": tokens, "refusal": None} if tokens else None


def _written(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_SERVER_ERROR = 500


def encode_error(error: AthenaError) -> bytes:
    """See Codec.encode_error."""
    kind = "server_error" if error.status >= _SERVER_ERROR else "invalid_request_error"
    return msgspec.json.encode(
        {
            "error": {
                "message": error.detail,
                "type": _ERROR_TYPES.get(error.status, kind),
                "param": error.field,
                "code": error.code,
            }
        }
    )
