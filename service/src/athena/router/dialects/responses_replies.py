"""Replies of OpenAI's Responses API: whole, or as its stream of events in their official order."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import msgspec

from athena.errors import AthenaError
from athena.router.types import Delta, Event, Finish, ToolCall, Usage

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_PARTS = {"message": "output_text", "reasoning": "reasoning_text"}


class Encoder:
    """Writes one reply; see ReplyEncoder. `echo` is what a response repeats of its request.

    A reply is a list of items: what was thought, what is said, and the calls of tools, each in its turn.
    """

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, model: str, echo: Mapping[str, Any]) -> None:
        self._head: dict[str, Any] = {
            "id": f"resp_{uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "previous_response_id": None,
            "store": False,
            "usage": None,
            **echo,
        }
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None  # the item that is being written, and its text so far
        self._text: list[str] = []

    def start(self) -> bytes:
        return self._event("response.created", response=self._head) + self._event(
            "response.in_progress", response=self._head
        )

    def delta(self, event: Delta) -> bytes:
        return b"".join(self._said(event))

    def finish(self, event: Finish) -> bytes:
        reason = _INCOMPLETE.get(event.reason)
        last = b"".join(self._ended(complete=reason is None))
        response = self._response(event)
        return last + self._event("response.incomplete" if reason else "response.completed", response=response)

    def broken(self, error: AthenaError) -> bytes:
        return self._event("error", code=error.code, message=error.detail, param=error.field)

    def whole(self, events: Sequence[Event]) -> bytes:
        for event in events:
            if isinstance(event, Delta):
                self.delta(event)
        finish = next(event for event in reversed(events) if isinstance(event, Finish))
        self.finish(finish)
        return msgspec.json.encode(self._response(finish))

    def _response(self, finish: Finish) -> dict[str, Any]:
        reason = _INCOMPLETE.get(finish.reason)
        return {
            **self._head,
            "status": "incomplete" if reason else "completed",
            "incomplete_details": {"reason": reason} if reason else None,
            "output": self._output,
            "usage": _written(finish.usage),
        }

    def _said(self, event: Delta) -> Iterator[bytes]:
        for kind, text in (("reasoning", event.thinking), ("message", event.text)):
            if text:
                if self._open is None or self._open["type"] != kind:
                    yield from self._close()
                    yield from self._begin(kind)
                self._text.append(text)
                yield self._of_part(f"response.{_PARTS[kind]}.delta", delta=text, kind=kind)
        for call in event.tool_calls:
            yield from self._close()
            yield from self._call(call)

    def _ended(self, *, complete: bool) -> Iterator[bytes]:
        if self._open is None and not self._output:
            yield from self._begin("message")
        yield from self._close(complete=complete)

    def _begin(self, kind: str) -> Iterator[bytes]:
        """Begin an item that has text, and its one part."""
        item: dict[str, Any] = {"type": kind, "status": "in_progress", "content": []}
        if kind == "message":
            item |= {"id": f"msg_{uuid4().hex}", "role": "assistant"}
        else:
            item |= {"id": f"rs_{uuid4().hex}", "summary": []}
        self._open = item
        self._text = []
        yield self._event("response.output_item.added", output_index=len(self._output), item=item)
        yield self._of_part("response.content_part.added", part=_part(kind, ""))

    def _close(self, *, complete: bool = True) -> Iterator[bytes]:
        """End the item that is being written, if there is one."""
        item = self._open
        if item is None:
            return
        kind, text = item["type"], "".join(self._text)
        part = _part(kind, text)
        yield self._of_part(f"response.{_PARTS[kind]}.done", text=text, kind=kind)
        yield self._of_part("response.content_part.done", part=part)
        done = {**item, "content": [part], "status": "completed" if complete else "incomplete"}
        yield self._event("response.output_item.done", output_index=len(self._output), item=done)
        self._output.append(done)
        self._open = None

    def _call(self, call: ToolCall) -> Iterator[bytes]:
        place = {"output_index": len(self._output)}
        item = {
            "type": "function_call",
            "id": f"fc_{uuid4().hex}",
            "call_id": call.id or f"call_{uuid4().hex[:24]}",
            "name": call.name,
        }
        arguments = call.arguments or "{}"
        of_item = {"item_id": item["id"], **place}
        begun, done = (
            {**item, "arguments": said, "status": status}
            for said, status in (("", "in_progress"), (arguments, "completed"))
        )
        yield self._event("response.output_item.added", **place, item=begun)
        yield self._event("response.function_call_arguments.delta", **of_item, delta=arguments)
        yield self._event("response.function_call_arguments.done", **of_item, name=call.name, arguments=arguments)
        yield self._event("response.output_item.done", **place, item=done)
        self._output.append(done)

    def _of_part(self, name: str, /, *, kind: str = "", **fields: Any) -> bytes:
        """Return an event about the one part of the item that is being written."""
        if self._open is None:
            raise AssertionError("no item is being written")
        if kind == "message":
            fields["logprobs"] = []
        return self._event(name, item_id=self._open["id"], output_index=len(self._output), content_index=0, **fields)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        data = msgspec.json.encode({"type": name, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _part(kind: str, text: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": _PARTS[kind], "text": text}
    return part | {"annotations": [], "logprobs": []} if kind == "message" else part


def _written(usage: Usage) -> dict[str, Any]:
    """Write the counts; how many tokens were thought, no engine says."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
