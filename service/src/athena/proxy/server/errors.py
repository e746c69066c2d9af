"""What the server itself refuses, before or instead of the application."""

from athena.errors import AthenaError, UnavailableError


class BadRequestError(AthenaError):
    """The bytes are no HTTP request, or one that two servers could read in two ways."""

    status = 400
    title = "Bad request"
    code = "bad_request"


class HeadTooLargeError(AthenaError):
    """The request line and the headers are larger, or the headers more, than the server takes."""

    status = 431
    title = "Request header fields too large"
    code = "head_too_large"


class PayloadTooLargeError(AthenaError):
    """The body is larger than the server takes."""

    status = 413
    title = "Payload too large"
    code = "payload_too_large"


class OutOfRoomError(UnavailableError):
    """The large bodies of all callers together take up as much memory as the server gives them."""

    title = "Out of room"
    code = "out_of_room"


class SlowSenderError(AthenaError):
    """The request did not arrive in time."""

    status = 408
    title = "Request timeout"
    code = "request_timeout"


class TooManyConnectionsError(UnavailableError):
    """More connections are open than the server holds."""

    title = "Too many connections"
    code = "too_many_connections"


class ShuttingDownError(UnavailableError):
    """The server ends, and takes no new work."""

    title = "Shutting down"
    code = "shutting_down"
