"""The one family of errors of the package: each carries what an HTTP answer, a log line and a person need."""

from typing import Any, ClassVar


class AthenaError(Exception):
    """Something went wrong that has a name, an HTTP status and, where the caller can mend it, a remedy in its message.

    `detail` is a sentence for a person; `field` names the input at fault, as the caller spelled it; `retry_after` is in
    seconds and set where trying again later is worth while.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    code: ClassVar[str] = "internal_error"

    def __init__(self, detail: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.retry_after = retry_after

    def problem(self) -> dict[str, Any]:
        """Return the error as the members of an RFC 9457 problem object."""
        members: dict[str, Any] = {
            "type": f"urn:athena:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.field is not None:
            members["errors"] = [{"field": self.field, "detail": self.detail}]
        return members


class InvalidInputError(AthenaError):
    """The request can never be served as it is written."""

    status = 422
    title = "Invalid input"
    code = "invalid_input"


class UnauthorizedError(AthenaError):
    """No credential, or one that does not hold."""

    status = 401
    title = "Unauthorized"
    code = "unauthorized"


class ForbiddenError(AthenaError):
    """A credential that holds but does not reach this far."""

    status = 403
    title = "Forbidden"
    code = "forbidden"


class NotFoundError(AthenaError):
    """The thing that the request names does not exist."""

    status = 404
    title = "Not found"
    code = "not_found"


class ConflictError(AthenaError):
    """The request contradicts what is stored; the message says how to resolve it."""

    status = 409
    title = "Conflict"
    code = "conflict"


class UnavailableError(AthenaError):
    """A part that this request needs cannot be reached just now."""

    status = 503
    title = "Service unavailable"
    code = "unavailable"
