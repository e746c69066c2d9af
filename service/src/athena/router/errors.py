"""What can go wrong on the way to an engine, by who can mend it: the caller, the operator, or the next backend."""

from enum import StrEnum

from athena.errors import AthenaError, InvalidInputError, UnavailableError


class FailureKind(StrEnum):
    """How an attempt at one engine failed. Every kind but `rejected` lets the next backend of the route be tried."""

    REFUSED = "refused"  # no connection: refused, unreachable, name unknown
    TIMEOUT = "timeout"  # no connection, first byte or whole reply in time
    RESET = "reset"  # the connection broke
    STATUS = "status"  # an answer that says the engine cannot serve this now (5xx, 429, 404 of a model it lacks)
    EMPTY = "empty"  # a reply with no bytes or no end mark before its first token
    MALFORMED = "malformed"  # bytes that are not the dialect
    OPEN = "open"  # it is known not to serve; nothing was sent
    UNSUITABLE = "unsuitable"  # this engine would ignore a part of the request, or choke on it, or does so
    REJECTED = "rejected"  # the request itself is wrong (4xx): another engine would say the same


class BackendError(AthenaError):
    """One engine failed to serve one attempt.

    `detail` is for the caller whose request it was, with the engine's own words, which may quote the prompt.
    `own_words` are without them: for logs and for other callers.
    """

    status = 502
    title = "Backend failed"
    code = "backend_failed"

    def __init__(
        self,
        kind: FailureKind,
        detail: str,
        *,
        upstream_status: int | None = None,
        own_words: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(detail, field=field)
        self.kind = kind
        self.own_words = detail if own_words is None else own_words
        self.upstream_status = upstream_status

    @property
    def lets_next_backend_try(self) -> bool:
        """Whether another engine may succeed where this one failed."""
        return self.kind is not FailureKind.REJECTED


class RequestRejectedError(InvalidInputError):
    """The engine, or the router before it, found the caller's request wrong."""

    status = 400
    title = "Request rejected"
    code = "request_rejected"


class NeedWithoutHomeError(RequestRejectedError):
    """No backend of the model can do what the request needs; the message says which need has no home."""

    status = 422
    title = "Need without a home"
    code = "need_without_home"


class NoBackendError(UnavailableError):
    """Every backend of the model's route failed before its first byte. `attempts` says which and how, in order."""

    title = "No backend available"
    code = "no_backend_available"

    def __init__(self, detail: str, *, attempts: tuple[tuple[str, str], ...], retry_after: float | None = None) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.attempts = attempts


class ModelNotFoundError(NoBackendError):
    """Every backend of the route, the default Ollama included, says that it has no such model, or there is none that
    could have it: no use to try again.
    """

    status = 404
    title = "Model not found"
    code = "model_not_found"


class QueueFullError(UnavailableError):
    """Too many requests wait for the backends of the model's route, or for too long; `retry_after` says until when."""

    title = "Overloaded"
    code = "overloaded"


class TooManyWaitingError(QueueFullError):
    """The queue is full, and it is this caller that takes more of it than its fair share."""

    status = 429
    title = "Too many requests"
    code = "too_many_requests"


class StreamBrokenError(BackendError):
    """An engine's reply broke off after its first byte: too late for another backend; the caller must be told."""

    title = "Stream broken"
    code = "stream_broken"
