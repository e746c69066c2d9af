"""Whether this process traces requests: not unless a setting asks for it, and only then is OpenTelemetry imported."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from athena.observability.otel import Span, Traces

log = structlog.get_logger()

current: ContextVar["Span | None"] = ContextVar("span", default=None)
"""The span of the request that a FastAPI application serves."""


class _Tracing:
    """How this process traces; set by `configure`."""

    service = ""
    queue = 0
    traces: "Traces | None" = None


def configure(service: str, *, queue: int) -> None:
    """Have the process trace, in the name of `service`; at most `queue` spans wait to be sent.

    Called once, by the command that starts the process. The rest of what there is to set the libraries read from the
    environment. Nothing is made before it is used, so that each worker of a proxy makes its own.
    """
    _Tracing.service = service
    _Tracing.queue = queue


def wanted() -> bool:
    """Return whether the process traces."""
    return bool(_Tracing.service)


def traces() -> "Traces | None":
    """Return what makes spans; None, as nearly always, where no setting asks for it."""
    if not _Tracing.service:
        return None
    if _Tracing.traces is None:
        from athena.observability.otel import Traces  # noqa: PLC0415 - a tenth of a second that others do not pay

        _Tracing.traces = Traces(_Tracing.service, queue=_Tracing.queue)
    return _Tracing.traces


def dropped() -> int:
    """Return how many spans this process could not send, nor keep."""
    return _Tracing.traces.dropped if _Tracing.traces is not None else 0


@asynccontextmanager
async def sending() -> AsyncIterator[None]:
    """Send spans as long as the context is entered, and at its end those that are left, for two seconds at most."""
    try:
        yield
    finally:
        made, _Tracing.traces = _Tracing.traces, None
        if made is not None:
            await asyncio.to_thread(made.close)
