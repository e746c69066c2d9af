"""One request for a reply on its way: what is known of it, and how its caller is answered."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from athena.errors import AthenaError
from athena.observability.error_types import CANCELLED
from athena.proxy.http import JSON, error_answer
from athena.proxy.quota import Quota
from athena.proxy.server.exchange import Exchange
from athena.router.call import Call
from athena.router.dialects import ReplyEncoder, codec
from athena.router.types import Dialect, Operation, Target, Usage

if TYPE_CHECKING:
    from athena.observability.otel import Span

_BYTES_OF_A_TOKEN = 4  # of a prompt, about
_LINES_OF_AN_EVENT = 2  # of SSE: the data, and a blank one


class Forwarding:
    """One request for a reply, and what becomes of it."""

    __slots__ = (
        "_encoder", "call", "dialect", "error_type", "exchange", "first_token", "identity", "limits", "lines",
        "operation", "quota", "span", "status", "succeeded", "target", "usage",
    )  # fmt: skip

    def __init__(self, dialect: Dialect, operation: Operation, exchange: Exchange) -> None:
        self.dialect = dialect
        self.operation = operation
        self.exchange = exchange
        self.identity = exchange.identity
        self.call: Call | None = None
        self.target: Target | None = None
        self.first_token: float | None = None
        self.usage: Usage | None = None
        self.quota: Quota | None = None
        self.limits = b""  # header lines, where the caller's key has any
        self.lines = 0  # of a stream, where the caller's key has a limit of tokens
        self.error_type = ""
        self.status = 200
        self.succeeded = False  # whether its engine has written the whole reply
        self.span: Span | None = None
        self._encoder: ReplyEncoder | None = None

    def fields(self, content_type: bytes) -> bytes:
        """Return the headers of an answer: what it is, whose it is, and who gave it."""
        target = self.target
        if target is None:
            return b"content-type: %b\r\nx-request-id: %b\r\n%b" % (content_type, self.identity, self.limits)
        number = target.backend.id
        return b"content-type: %b\r\nx-request-id: %b\r\nx-athena-backend: %b\r\nx-athena-backend-id: %b\r\n%b" % (
            content_type,
            self.identity,
            target.engine.encode(),
            b"default" if number is None else b"%d" % number,
            self.limits,
        )

    def encoder(self, call: Call) -> ReplyEncoder:
        """Return what puts an engine's events into the caller's dialect; it also ends the reply if that breaks off."""
        request = call.request
        encoder = self._encoder = codec(self.dialect).encoder(
            call.operation,
            call.model,
            include_usage=request.include_usage,
            started=self.exchange.started,
            echo=request.echo,
        )
        return encoder

    @property
    def write(self) -> Callable[[bytes], None]:
        """What sends a piece of a stream to the caller."""
        write = self.exchange.write
        if self.quota is None or not self.quota.counts_tokens:
            return write

        def count(data: bytes) -> None:
            self.lines += data.count(b"\n")
            write(data)

        return count

    def tokens(self) -> int:
        """Return how many tokens the request has cost, as its engine counted.

        Where that is not known, because the caller left before the end or the engine does not say, they are estimated:
        nobody is to get round a limit by leaving early. A refusal costs none.
        """
        if self.usage is not None:
            return self.usage.prompt_tokens + self.usage.completion_tokens
        if self.call is None or (self.target is None and self.error_type != CANCELLED):
            return 0
        pieces = self.lines if self.dialect is Dialect.OLLAMA else self.lines // _LINES_OF_AN_EVENT
        return len(self.call.body) // _BYTES_OF_A_TOKEN + pieces

    def refuse(self, error: AthenaError) -> None:
        """Answer with an error, in the caller's dialect."""
        self.error_type = error.code
        answer = error_answer(self.dialect, error)
        self.status = answer.status
        head = b"%b%b" % (self.fields(JSON), answer.fields.partition(b"\r\n")[2])
        self.exchange.respond(answer.status, head, answer.body)

    def break_off(self, error: AthenaError) -> None:
        """End an answer that has begun: an error event, and the connection closed without the end of the body.

        Nobody can take it for a whole one.
        """
        self.error_type = error.code
        encoder = self._encoder
        if encoder is None:  # its engine's own bytes were passed through
            encoder = codec(self.dialect).encoder(self.operation, self.call.model if self.call is not None else "")
        event = encoder.broken(error)
        # The blank line ends an SSE event of the engine that lacks its own; one too many does no harm.
        self.exchange.write(b"\n" + event if self.dialect is not Dialect.OLLAMA else event)
        self.exchange.abort()

    def fail(self, error: AthenaError) -> None:
        """Tell the caller of an error, whether or not the answer has begun."""
        if self.exchange.answered:
            self.break_off(error)
        else:
            self.refuse(error)
