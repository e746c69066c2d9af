"""The two log lines that every request writes, `routing_llm_request` and `llm_request_completed`, at little cost."""

from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import structlog

from athena.observability.lines import LineWriter
from athena.observability.stamp import Stamp

if TYPE_CHECKING:
    from athena.observability.otel import Span
    from athena.router.types import Target

_KNOWN_TARGETS = 1024  # models times engines whose fields are kept encoded; a caller may ask for any model
_LONGEST_KEPT_MODEL = 256

_encode: Final = msgspec.json.encode


class Named(Protocol):
    """What is said of a request; a `router.call.Call` is one. `request_id` is empty for a call of the library; `names`
    are it and the id of the trace, as far as there are any.
    """

    model: str
    request_id: str
    span: "Span | None"

    @property
    def names(self) -> dict[str, str]:
        """By what the lines are found."""
        ...


class RequestLog(Protocol):
    """Tells the way of each request. `logs.request_log()` returns the one that suits the process.

    The lines bear the request's `model`, `backend_type` (the engine type of the target) and `endpoint`, and its
    `request_id` if it has one.
    """

    def routing(self, call: Named, target: "Target") -> None:
        """Tell that the request goes to this target: one line for each attempt."""

    def completed(self, call: Named, target: "Target", seconds: float, completion_tokens: int | None) -> None:
        """Tell that the target's whole reply took `seconds`; None where it did not count its tokens."""


class StructuredRequestLog:
    """Hands the lines to structlog, like any other: for a program that does its own logging."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()

    def routing(self, call: Named, target: "Target") -> None:
        """Tell that the request goes to this target."""
        self._log.info(
            "routing_llm_request",
            model=call.model,
            backend_type=target.engine,
            endpoint=target.endpoint_url,
            **call.names,
        )

    def completed(self, call: Named, target: "Target", seconds: float, completion_tokens: int | None) -> None:
        """Tell that the target's whole reply took `seconds`."""
        self._log.info(
            "llm_request_completed",
            model=call.model,
            backend_type=target.engine,
            duration=round(seconds, 4),
            endpoint=target.endpoint_url,
            completion_tokens=completion_tokens,
            **call.names,
        )


class FastRequestLog:
    """Writes the lines itself: the fields of each model and target encoded once, the rest put behind them.

    A request without an id is a library's, and told through structlog, which knows what its program bound to it.
    """

    def __init__(self, writer: LineWriter, service: str, stamp: Stamp) -> None:
        self._write = writer.write
        self._service = service
        self._stamp = stamp
        self._heads: dict[tuple[str, str, str], tuple[bytes, bytes]] = {}
        self._other = StructuredRequestLog()

    def routing(self, call: Named, target: "Target") -> None:
        """Tell that the request goes to this target."""
        if not call.request_id:
            self._other.routing(call, target)
            return
        heads = self._heads.get((call.model, target.engine, target.endpoint_url)) or self._learn(call.model, target)
        self._write(b'%b%b,"timestamp":"%b"}\n' % (heads[0], _identity(call), self._stamp.now()))

    def completed(self, call: Named, target: "Target", seconds: float, completion_tokens: int | None) -> None:
        """Tell that the target's whole reply took `seconds`."""
        if not call.request_id:
            self._other.completed(call, target, seconds, completion_tokens)
            return
        heads = self._heads.get((call.model, target.engine, target.endpoint_url)) or self._learn(call.model, target)
        self._write(
            b'%b%b,"duration":%.4f,"completion_tokens":%b,"timestamp":"%b"}\n'
            % (heads[1], _identity(call), seconds, _encode(completion_tokens), self._stamp.now())
        )

    def _learn(self, model: str, target: "Target") -> tuple[bytes, bytes]:
        """Encode what the lines of a model at a target have in common, up to the value of `request_id`."""
        fields = {
            "level": "info",
            "service": self._service,
            "model": model,
            "backend_type": target.engine,
            "endpoint": target.endpoint_url,
        }
        routing, completed = (
            _encode({"event": event, **fields})[:-1] + b',"request_id":'
            for event in ("routing_llm_request", "llm_request_completed")
        )
        if len(model) <= _LONGEST_KEPT_MODEL:
            if len(self._heads) >= _KNOWN_TARGETS:
                self._heads.clear()
            self._heads[model, target.engine, target.endpoint_url] = routing, completed
        return routing, completed


def _identity(call: Named) -> bytes:
    """Return the value of `request_id`, and behind it, where the process traces, the field `trace_id`."""
    identity = _encode(call.request_id)
    return identity if call.span is None else b'%b,"trace_id":"%b"' % (identity, call.span.trace_id.encode())
