"""Ollama's replies: streams of JSON lines and whole bodies, read and written."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from athena.errors import AthenaError
from athena.router.dialects.decoding import BAD_JSON
from athena.router.dialects.lines import LastLine, LineBuffer, reported
from athena.router.errors import BackendError, FailureKind
from athena.router.types import Delta, Event, Finish, FinishReason, Operation, ToolCall, Usage, WrittenToken

_NANOSECONDS = 1e9
# In JSON text they may stand as they are, but clients that split a stream like str.splitlines() break at them.
_TAKEN_FOR_LINE_ENDS = (
    ("\u0085".encode(), b"\\u0085"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


class _Function(msgspec.Struct):
    name: str = ""
    arguments: Any = None


class _ToolCall(msgspec.Struct):
    function: _Function


class _Message(msgspec.Struct):
    content: str = ""
    thinking: str = ""
    tool_calls: list[_ToolCall] | None = None


class _Line(msgspec.Struct):
    message: _Message | None = None
    response: str = ""
    thinking: str = ""
    done: bool = False
    done_reason: str = ""
    error: str = ""
    prompt_eval_count: int = 0
    prompt_eval_duration: int | None = None
    eval_count: int = 0
    eval_duration: int | None = None
    load_duration: int | None = None
    logprobs: tuple[WrittenToken, ...] | None = None

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_eval_count,
            completion_tokens=self.eval_count,
            load_seconds=_seconds(self.load_duration),
            prompt_seconds=_seconds(self.prompt_eval_duration),
            completion_seconds=_seconds(self.eval_duration),
        )


_LINE = msgspec.json.Decoder(_Line)


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / _NANOSECONDS


def _line(data: bytes) -> _Line:
    try:
        line = _LINE.decode(data)
    except BAD_JSON as error:
        raise BackendError(FailureKind.MALFORMED, f"a line that is not Ollama's: {error}") from error
    if line.error:
        raise reported(line.error)
    return line


class Reader:
    """Reads a stream; see StreamReader. Its tool calls come whole."""

    def __init__(self) -> None:
        self.grew = False
        self._lines = LineBuffer()
        self._called = False
        self._ended = False

    def feed(self, data: bytes) -> Sequence[Event]:
        events: list[Event] = []
        for line in self._lines.feed(data):
            if line.strip() and not self._ended:
                self._take(_line(line), events)
        return events

    def end(self) -> Sequence[Event]:
        events: list[Event] = []
        rest = self._lines.rest()
        if rest.strip() and not self._ended:
            self._take(_line(rest), events)
        if not self._ended:
            raise BackendError(FailureKind.EMPTY, "the stream ended without a line that is done")
        return events

    def _take(self, line: _Line, events: list[Event]) -> None:
        message = line.message or _Message(content=line.response, thinking=line.thinking)
        calls = tuple(
            ToolCall(name=call.function.name, arguments=msgspec.json.encode(call.function.arguments or {}).decode())
            for call in message.tool_calls or []
        )
        tokens = line.logprobs or ()
        if message.content or message.thinking or calls or tokens:
            events.append(Delta(text=message.content, thinking=message.thinking, tool_calls=calls, tokens=tokens))
        self._called = self._called or bool(calls)
        if line.done:
            self._ended = True
            finished: FinishReason = "tool_calls" if self._called else "stop"
            events.append(Finish(reason="length" if line.done_reason == "length" else finished, usage=line.usage()))


class Watch:
    """Watches a stream that is passed through; see StreamWatch.

    It keeps the last line, whole: generate's has the `context`, any number of tokens, between `done` and the figures.
    """

    def __init__(self) -> None:
        self._lines = LineBuffer()
        self._last = LastLine()
        self._begun = False
        self.ended = False

    def feed(self, data: bytes) -> bool:
        begins = self._last.feed(data)
        # Few lines but the last one have the word; of one that comes in pieces it is not known.
        if (not begins or data.find(b"true") >= 0) and data.endswith(b"\n"):
            self.ended = self._at_end()
        if self._begun:
            # An error is always the last line, so that no other needs a look.
            if begins and data.find(b'"error"') >= 0:  # `in` costs more, by a TypeError that it raises and drops
                self._raise_error()
            return True
        for line in self._lines.feed(data):
            if line.strip():
                read = _line(line)
                message = read.message or _Message(content=read.response, thinking=read.thinking)
                said = message.content or message.thinking or message.tool_calls or read.done
                self._begun = self._begun or bool(said)
        return self._begun

    def end(self) -> Usage | None:
        line = self._last.line()
        if not line:
            raise BackendError(FailureKind.EMPTY, "a stream without a line")
        read = _line(line)
        if not read.done:
            raise BackendError(FailureKind.EMPTY, "the stream ended without a line that is done")
        return read.usage()

    def _at_end(self) -> bool:
        """Return whether the last line, which is there as a whole, is the one that is done."""
        try:
            return _LINE.decode(self._last.line()).done
        except BAD_JSON:
            return False

    def _raise_error(self) -> None:
        """Raise the error that the last line reports, if it is one and there as a whole."""
        try:
            error = _LINE.decode(self._last.line()).error
        except BAD_JSON:
            return
        if error:
            raise reported(error)


def usage_of(body: bytes) -> Usage:
    """See Codec.usage_of_reply."""
    line = _line(body)
    if not line.done:
        raise BackendError(FailureKind.EMPTY, "a reply that is not done")
    return line.usage()


class Encoder:
    """Writes one reply; see ReplyEncoder."""

    content_type = b"application/x-ndjson"

    def __init__(self, operation: Operation, model: str, *, started: float) -> None:
        self._chat = operation is Operation.CHAT
        self._model = model
        self._started = started

    def start(self) -> bytes:
        return b""

    def delta(self, event: Delta) -> bytes:
        return self._encode(self._said(event.text, event.thinking, event.tool_calls) | {"done": False})

    def finish(self, event: Finish) -> bytes:
        return self._encode(self._said("", "", ()) | self._end(event))

    def broken(self, error: AthenaError) -> bytes:
        return encode_error(error) + b"\n"

    def whole(self, events: Sequence[Event]) -> bytes:
        deltas = [event for event in events if isinstance(event, Delta)]
        finish = next(event for event in reversed(events) if isinstance(event, Finish))
        said = self._said(
            "".join(delta.text for delta in deltas),
            "".join(delta.thinking for delta in deltas),
            [call for delta in deltas for call in delta.tool_calls],
        )
        return self._encode(said | self._end(finish)).rstrip(b"\n")

    def _said(self, text: str, thinking: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
        thought = {"thinking": thinking} if thinking else {}
        if not self._chat:
            return {"response": text, **thought}
        message: dict[str, Any] = {"role": "assistant", "content": text, **thought}
        if calls:
            message["tool_calls"] = [
                {"function": {"name": call.name, "arguments": _object(call.arguments)}} for call in calls
            ]
        return {"message": message}

    def _end(self, finish: Finish) -> dict[str, Any]:
        total = int((time.perf_counter() - self._started) * _NANOSECONDS)
        usage = finish.usage
        return {
            "done": True,
            "done_reason": "length" if finish.reason == "length" else "stop",
            "total_duration": total,
            "load_duration": _nanoseconds(usage.load_seconds) or 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(usage.prompt_seconds) or 0,
            "eval_count": usage.completion_tokens,
            # An engine that measures nothing has at least not taken longer than this.
            "eval_duration": _nanoseconds(usage.completion_seconds) or total,
        }

    def _encode(self, fields: dict[str, Any]) -> bytes:
        created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line = msgspec.json.encode({"model": self._model, "created_at": created, **fields})
        for character, escaped in _TAKEN_FOR_LINE_ENDS:
            line = line.replace(character, escaped)
        return line + b"\n"


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * _NANOSECONDS)


def _object(arguments: str) -> dict[str, Any]:
    """Return a tool call's arguments as this dialect has them; what is no object, as a model may write, stays text."""
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except BAD_JSON:
        return {"arguments": arguments}


def encode_error(error: AthenaError) -> bytes:
    """See Codec.encode_error."""
    return msgspec.json.encode({"error": error.detail})
