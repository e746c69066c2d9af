"""One question to one model, through the router, with what it cost."""

import asyncio
import time
from typing import TYPE_CHECKING

from pydantic import BaseModel

from athena.errors import AthenaError, UnavailableError
from athena.observability import identity, tracing
from athena.observability.error_types import CANCELLED, OTHER, ErrorGroup, group_of, named
from athena.orchestrator.metrics import OrchestratorMetrics
from athena.router.call import Call
from athena.router.dispatch import OpenReply
from athena.router.errors import BackendError
from athena.router.services import RouterServices
from athena.router.types import Delta, Message, Operation, Request, Sampling, Usage

if TYPE_CHECKING:
    from athena.observability.otel import Span

RETRY_SECONDS = 5.0


class Step(BaseModel):
    """One question to a model. `backend` is the engine that answered; None, with `error`, where none did."""

    name: str
    model: str
    backend: str | None = None
    duration_ms: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens_per_sec: float | None = None
    error: str | None = None


class EngineFailedError(UnavailableError):
    """No engine answered a step; `step` says which and for how long it was tried."""

    code = "engine_failed"

    def __init__(self, detail: str, *, step: Step, retry_after: float) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.step = step


async def ask(
    services: RouterServices,
    metrics: OrchestratorMetrics,
    step: str,
    *,
    model: str,
    messages: list[Message],
    sampling: Sampling,
) -> tuple[str, Step]:
    """Return the model's whole answer, and the step for the report.

    Raises EngineFailedError where no engine answers, RequestRejectedError where the question itself is at fault.
    """
    request = Request(operation=Operation.CHAT, model=model, messages=messages, sampling=sampling)
    call = Call.of(request)
    call.request_id = identity.current()
    span = call.span = _begin(step, call)
    began = time.monotonic()
    reply: OpenReply | None = None
    error_type = OTHER  # unless it becomes clear how it ended
    try:
        reply = await services.dispatcher.open(call)
        try:
            events = [event async for event in reply.events()]
        finally:
            reply.close()
        error_type = ""
    except (BackendError, UnavailableError) as error:
        error_type = error.code
        failed = Step(name=step, model=model, duration_ms=_milliseconds(began), error=error.detail)
        raise EngineFailedError(error.detail, step=failed, retry_after=error.retry_after or RETRY_SECONDS) from error
    except AthenaError as error:
        error_type = error.code
        raise
    except asyncio.CancelledError:
        error_type = CANCELLED
        raise
    finally:
        metrics.step(
            step,
            model,
            known=bool(services.configuration.snapshot.routes.get(model)),
            target=reply.target if reply is not None else None,
            error_type=error_type,
            seconds=time.monotonic() - began,
            usage=reply.usage if reply is not None else None,
        )
        if span is not None:
            if reply is not None:
                span.answered(model, reply.usage)
            span.end(error_type, fault=group_of(named(error_type)) == ErrorGroup.BACKEND)
    usage = reply.usage or Usage()
    return "".join(event.text for event in events if isinstance(event, Delta)), Step(
        name=step,
        model=model,
        backend=reply.target.engine.value,
        duration_ms=_milliseconds(began),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        tokens_per_sec=round(reply.tokens_per_second, 2) or None,
    )


def _begin(step: str, call: Call) -> "Span | None":
    """Begin the step's span within that of the query, where the process traces."""
    traces, query = tracing.traces(), tracing.current.get()
    if traces is None or query is None:
        return None
    asked = {"gen_ai.operation.name": "chat", "gen_ai.request.model": call.model, "athena.step": step}
    return query.child(traces, f"step {step}", asked)


def _milliseconds(since: float) -> float:
    return round((time.monotonic() - since) * 1000, 1)
