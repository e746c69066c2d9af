"""One request on its way through the router, in the form in which it came."""

from typing import TYPE_CHECKING

from athena.router.dialects import codec
from athena.router.dialects.decoding import Head
from athena.router.types import Dialect, Operation, Request

if TYPE_CHECKING:
    from athena.observability.otel import Span


class Call:
    """What a caller asked: `body` are the bytes it sent, in `dialect`; `request` is their neutral form, made on demand.

    `model`, `stream` and `head` are known from the start: they are all that routing looks at. A call of the library has
    no dialect and no body, only its neutral request.

    `caller` is the name of the caller's API key, or its address, empty where it is not known; `priority` is 0 (high),
    1 (normal) or 2 (low); `request_id` is what its log lines are found by, and
    what the engine is told; empty for a call of the library outside of a request. `span` is there where the
    process traces. `beginnings` are the digests of its body's, once a judge has wanted them.
    """

    caller: str = ""
    priority: int = 1
    span: "Span | None" = None
    request_id: str = ""
    beginnings: tuple[tuple[int, bytes], ...] | None = None

    def __init__(
        self, dialect: Dialect | None, operation: Operation, body: bytes, *, request: Request | None = None
    ) -> None:
        """Look at the bytes only as far as routing needs; raises RequestRejectedError if they are no request at all.

        A call of the library comes with its `request`.
        """
        self.dialect = dialect
        self.operation = operation
        self.body = body
        self._request = request
        if dialect is not None:
            self.head, self.stream = codec(dialect).peek(operation, body)
        elif request is not None:
            self.head, self.stream = Head(request.model), request.stream
        else:
            raise AssertionError("a library call is made with its request")
        self.model = self.head.model

    @property
    def names(self) -> dict[str, str]:
        """By what its log lines are found: the ids of the request and of its trace, as far as there are any."""
        names = {"request_id": self.request_id} if self.request_id else {}
        if self.span is not None:
            names["trace_id"] = self.span.trace_id
        return names

    @classmethod
    def of(cls, request: Request) -> "Call":
        """Return the call of a program that uses the library and hands over the neutral request itself."""
        return cls(None, request.operation, b"", request=request)

    @property
    def request(self) -> Request:
        """The neutral form; raises RequestRejectedError, with the field at fault, where the body does not hold."""
        request = self._request
        if request is None:
            if self.dialect is None:
                raise AssertionError("a library call is made with its request")
            request = self._request = codec(self.dialect).decode_request(self.operation, self.body)
        return request
