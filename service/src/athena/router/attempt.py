"""One try at one engine: its clock, its place at the engine's gate, and where its outcome goes."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from athena.observability.content import ContentLog
from athena.observability.error_types import CANCELLED
from athena.observability.requests import RequestLog
from athena.observability.router_metrics import RouterMetrics
from athena.router.call import Call
from athena.router.errors import BackendError, FailureKind
from athena.router.figures import Figures
from athena.router.gates import shown_model
from athena.router.policy import speed
from athena.router.routes import Door
from athena.router.types import Usage
from athena.router.upstream_reply import UpstreamReply

if TYPE_CHECKING:
    from athena.observability.otel import Span, Traces
    from athena.router.judge import Judge

_UNREACHABLE = (FailureKind.REFUSED, FailureKind.TIMEOUT)
_PATIENCE = 4.0  # seconds that a sound engine may think about a short prompt without a sign of life
_TIMES_USUAL = 3.0  # as long as usual may a whole reply take before it is strange
_BYTES_A_SECOND = 500.0  # of prompt; slower reading is not to be expected


class Books:
    """Where outcomes are written down: the registry's figures, the log, the metrics."""

    __slots__ = ("content", "figures", "judge", "metrics", "request_log", "traces")

    def __init__(
        self,
        figures: Figures,
        request_log: RequestLog,
        metrics: RouterMetrics,
        content: ContentLog | None = None,
        traces: "Traces | None" = None,
        *,
        judge: "Judge | None" = None,
    ) -> None:
        """`content` is there only where prompts and answers are to be logged, `traces` where requests are traced, and
        `judge` where some backends are chosen by what was seen.
        """
        self.judge = judge
        self.content = content
        self.traces = traces
        self.figures = figures
        self.request_log = request_log
        self.metrics = metrics

    def words(self, error: BackendError) -> str:
        """Return what a log may say of a failure; an engine's words may quote the prompt."""
        return error.own_words if self.content is None else self.content.words(error.detail)


class Attempt:
    """Exactly one of `succeeded`, `failed`, `unavailable` and `abandoned` ends it, and gives its slot back.

    Whoever makes it has entered the door's gate. `others` are the doors that could be tried after it.
    """

    __slots__ = (
        "_books",
        "_call",
        "_first_token",
        "_judge",
        "_others",
        "_over",
        "_unread",
        "_whole",
        "begun",
        "door",
        "others",
        "seconds",
        "span",
        "tokens_per_second",
        "upstream",
    )

    def __init__(
        self,
        call: Call,
        door: Door,
        others: Sequence[Door],
        upstream: UpstreamReply,
        books: Books,
        *,
        whole: bool,
        span: "Span | None" = None,
    ) -> None:
        """`whole` says that the engine is silent until the whole reply is there. `span` ends with the attempt."""
        self.door = door
        self.others = others
        self.upstream = upstream
        self.span = span
        self.seconds = 0.0
        self.tokens_per_second = 0.0
        self.begun = time.monotonic()
        self._call = call
        self._books = books
        self._first_token: float | None = None
        self._whole = whole
        self._over = False
        self._others = door.gate.in_use - 1
        self._judge = books.judge if door.judged else None
        self._unread = self._judge.sent(door, call) if self._judge is not None else 0
        door.gate.flights.add(self)
        if others:
            door.gate.asked(self.begun, self)

    @property
    def waits_for_first_token(self) -> bool:
        """Whether nothing of it has been shown to the caller, so that it may go elsewhere."""
        return self._first_token is None

    @property
    def movable(self) -> bool:
        """Whether its route has another backend that could serve it now."""
        now = self.door.gate.now()
        return any(door.gate.usable(now) for door in self.others)

    @property
    def bound(self) -> bool:
        """Whether it shows nothing until its end, and no other backend could serve it now."""
        return self._whole and not self.movable

    @property
    def avoidable(self) -> bool:
        """Whether its route has another backend, in the route and not in doubt, that requests could go to instead."""
        now = self.door.gate.now()
        return any(door.gate.usable(now) and not door.gate.in_doubt(now) for door in self.others)

    @property
    def patience(self) -> float:
        """How long a sound engine may be silent about it, in seconds."""
        if not self._whole:
            return _PATIENCE + len(self._call.body) / _BYTES_A_SECOND
        usual = self.door.gate.usual_seconds()
        longest = self.door.whole_seconds
        return longest if usual is None else min(_PATIENCE + _TIMES_USUAL * usual, longest)

    def words(self, error: BackendError) -> str:
        """Return what a log may say of a failure."""
        return self._books.words(error)

    def saw_first_token(self) -> None:
        """Note when writing began, for engines that do not measure it."""
        self._first_token = time.monotonic()
        self.door.gate.answered()

    def succeeded(self, usage: Usage | None) -> None:
        """Count and log a reply that came whole."""
        if self._over:
            return
        now = time.monotonic()
        self.seconds = now - self.begun
        target = self.door.target
        since_first = now - self._first_token if self._first_token is not None else None
        tokens, writing = speed(usage or Usage(), seconds=self.seconds, after_first_token=since_first)
        self.tokens_per_second = tokens / writing if writing > 0 else 0.0
        arm = self.door.arm
        first = self._to_first_token(usage, writing) if arm or self._judge is not None else None
        if target.backend.id is not None:
            self._books.figures.record(
                target.backend.id,
                error=False,
                seconds=self.seconds,
                completion_tokens=tokens,
                completion_seconds=writing,
                first_token=first if arm else None,
            )
        if arm:
            self._books.metrics.arm_answered(self.door.gate.model, arm, first)
        self._books.request_log.completed(
            self._call, target, self.seconds, usage.completion_tokens if usage is not None else None
        )
        if self.span is not None:
            self.span.answered(self._call.model, usage)
        if self._judge is not None:
            self._teach(self._judge, usage, first, tokens=tokens, writing=writing, now=now)
        self._leave()
        self.door.gate.succeeded(now, self.begun)

    def _to_first_token(self, usage: Usage | None, writing: float) -> float | None:
        """Return the seconds until the first token; None for a whole reply of an engine that does not say."""
        if self._first_token is not None:
            return self._first_token - self.begun
        if usage is not None and usage.completion_seconds is not None:
            return max(self.seconds - writing, 0.0)
        return None

    def _teach(
        self, judge: "Judge", usage: Usage | None, first: float | None, *, tokens: int, writing: float, now: float
    ) -> None:
        """Let the judge learn from a whole reply."""
        judge.learn(
            self.door,
            self._call,
            unread=self._unread,
            others=self._others,
            first=first,
            tokens=tokens,
            writing=writing,
            load=(usage.load_seconds or 0.0) if usage is not None else 0.0,
            now=now,
        )

    def failed(self, kind: FailureKind) -> None:
        """Count a reply that did not come, or broke off."""
        if not self._over:
            if kind is FailureKind.TIMEOUT and self._first_token is not None:
                self._books.metrics.stalled()
            now = self._count_failure(kind)
            self._leave(kind)
            unreachable = not self.upstream.begun and kind in _UNREACHABLE
            self.door.gate.failed(now, self.begun, unreachable=unreachable)

    def unavailable(self, retry_after: float | None, *, lacks_model: bool) -> None:
        """Count a reply that a sound engine would not give: it has too much to do, or lacks the model."""
        if not self._over:
            now = self._count_failure(FailureKind.STATUS)
            if self._judge is not None and retry_after is None:
                self._judge.avoid(self.door, now, lacks_model=lacks_model)
            self._leave(FailureKind.STATUS)
            gate = self.door.gate
            if retry_after is not None:
                gate.pause(now + retry_after)
            gate.abandoned(now, self.begun)

    def abandoned(self) -> None:
        """End it without a word about the engine: the caller left, or is at fault itself."""
        if not self._over:
            self._leave(CANCELLED)
            if not self.door.gate.flights:
                self.door.gate.answered()  # nobody waits for an answer any more
            self.door.gate.abandoned(time.monotonic(), self.begun)

    def _leave(self, error_type: str = "") -> None:
        if self.span is not None:
            self.span.end(error_type)  # without effect where it was said before what had failed
        self._over = True
        gate = self.door.gate
        gate.flights.discard(self)
        if self.upstream.begun:
            gate.answered()

    def _count_failure(self, kind: FailureKind) -> float:
        now = time.monotonic()
        self.seconds = now - self.begun
        target = self.door.target
        number = target.backend.id
        if self.door.arm:
            self._books.metrics.arm_failed(self.door.gate.model, self.door.arm)
        self._books.metrics.failed(number, shown_model(number, self.door.gate.model), target.engine, kind)
        if number is not None:
            self._books.figures.record(
                number,
                error=True,
                seconds=self.seconds,
                completion_tokens=0,
                completion_seconds=0.0,
            )
        return now
